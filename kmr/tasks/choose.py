"""The choice of a task from the first outputs and targets, where they leave no doubt."""

from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.core.task import Task
from kmr.data import Split, output_tensor
from kmr.tasks.base import Weighted
from kmr.tasks.classes import CausalLM, Classification, MaskedLM, Segmentation, TokenClassification
from kmr.tasks.detection import Detection
from kmr.tasks.losses import Hint, hint_of
from kmr.tasks.numbers import MultiLabel, Regression

_CHOSEN: "WeakKeyDictionary[Split, dict[Any, Task]]" = WeakKeyDictionary()


def task_of(
    data: Split,
    returned: Any,
    inputs: Any,
    targets: Any,
    model: nn.Module | None = None,
    fits: Iterable[type[Task]] = (),
) -> Task:
    """Return a split's task: its own, or the one that the first outputs and targets show, which is kept.

    Raises:
        KMRError: they leave a doubt; the message gives the choices.
    """
    if data.task is not None:
        return data.task
    # Another model, or another meter, may read the same data as another task.
    kinds = tuple(fits)
    key = (tuple(returned.shape[1:]) if isinstance(returned, Tensor) else type(returned), type(model), kinds)
    chosen = _CHOSEN.setdefault(data, {})
    if key not in chosen:
        chosen[key] = choose_task(returned, inputs, targets, model=model, fits=kinds)
    return chosen[key]


def task_before_call(targets: Any) -> Task | None:
    """Return the task that targets alone show: boxes are a detector's, which takes its inputs as a list."""
    boxes = isinstance(targets, list | tuple) and len(targets) > 0 and isinstance(targets[0], dict)
    return Detection() if boxes and "boxes" in targets[0] else None


def choose_task(
    returned: Any,
    inputs: Any,
    targets: Any,
    *,
    losses: Iterable[Any] = (),
    model: nn.Module | None = None,
    fits: Iterable[type[Task]] = (),
    values: Tensor | None = None,
) -> Task:
    """Return the task that a model's outputs and the targets show.

    Args:
        returned: what the model returned for a batch.
        inputs: the batch's inputs.
        targets: the batch's targets, or None.
        losses: the user's training losses, which may say more.
        model: the model, whose class may say more (`BertForMaskedLM`).
        fits: tasks that the meters are made for.
        values: more targets than those of the batch, to see which values occur; (n, …).

    Raises:
        KMRError: they leave a doubt; the message gives the choices.
    """
    hints = [*(hint_of(loss) for loss in losses), Hint(tuple(fits))]
    settings = {key: value for hint in hints for key, value in hint.settings.items() if key == "ignore_index"}
    name = "" if model is None else type(model).__name__
    if isinstance(returned, list | tuple) and returned and isinstance(returned[0], dict) and "boxes" in returned[0]:
        return Detection()
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return CausalLM(**settings)
    if name.endswith("ForMaskedLM"):
        return MaskedLM(**settings)
    if name.endswith("ForTokenClassification"):
        return TokenClassification(**settings)
    if name.endswith("ForSemanticSegmentation"):
        return Segmentation(resize=True, **settings)
    if isinstance(targets, dict):
        targets = targets.get("labels")
    aims = targets.targets if isinstance(targets, Weighted) else targets
    outputs = output_tensor(returned)
    if aims is None:
        raise KMRError(
            "the samples have no targets: put them in labels, or set task: kmr.tasks.CausalLM predicts the next of the "
            "input tokens, kmr.tasks.Embedding compares vectors"
        )
    if not isinstance(aims, Tensor):
        raise KMRError(
            f"targets are a {type(aims).__name__}, not a tensor: class numbers of texts come from "
            "sorted(set(labels)).index; for a structure of your own, set task to a class of your own"
        )
    whole = not aims.is_floating_point()
    if (whole and aims.dtype != torch.bool) or (aims.dtype == torch.bool and aims.dim() < outputs.dim()):
        return _of_whole_numbers(outputs, aims, inputs, hints, settings)
    return _of_numbers(outputs, aims, hints, settings, aims if values is None else values)


def _of_whole_numbers(outputs: Tensor, aims: Tensor, inputs: Any, hints: list[Hint], settings: dict[str, Any]) -> Task:
    """Choose among tasks whose targets are whole numbers."""
    kinds = {kind for hint in hints for kind in hint.kinds}
    axes = {hint.settings["class_axis"] for hint in hints if "class_axis" in hint.settings}
    shape, target = tuple(outputs.shape), tuple(aims.shape)
    binary = bool(((aims == 0) | (aims == 1) | (aims == -100)).all())
    if outputs.numel() == aims.numel() and (outputs.dim() == 1 or shape[-1] == 1 or shape == target):
        if Regression in kinds:
            return Regression()
        if binary and outputs.dim() <= 2:
            return MultiLabel(**settings)
        raise _doubt(outputs, aims, "Regression (convert the targets with .float()) or Classification (more outputs)")
    if outputs.dim() == 2:
        return Classification(**settings)
    if target[1:2] == (1,) and len(target) == len(shape):
        target = (target[0], *target[2:])
    first, last = (shape[0], *shape[2:]) == target, shape[:-1] == target
    if first and last and len(axes) != 1:
        raise _doubt(
            outputs, aims,
            "kmr.tasks.TokenClassification for logits (n, length, classes), or kmr.tasks.Classification for "
            "(n, classes, length)",
        )  # fmt: skip
    if (last and not first) or (first and last and axes == {-1}):
        tokens = inputs.get("input_ids") if isinstance(inputs, dict) else inputs
        same = isinstance(tokens, Tensor) and tokens.shape == aims.shape and torch.equal(tokens.to(aims), aims)
        shift = any(hint.settings.get("shift") for hint in hints)
        return CausalLM(**settings) if same or shift else TokenClassification(**settings)
    if first:
        return Segmentation(**settings) if len(shape) == 4 else Classification(**settings)
    raise _doubt(outputs, aims, "a task of your own, or Segmentation with resize=true for logits of a lower resolution")


def _of_numbers(outputs: Tensor, aims: Tensor, hints: list[Hint], settings: dict[str, Any], every: Tensor) -> Task:
    """Choose among tasks whose targets are floating-point numbers or Booleans."""
    kinds = {kind for hint in hints for kind in hint.kinds}
    values = every.float()
    binary = bool(((values == 0) | (values == 1)).all())
    if Regression in kinds:
        return Regression()
    if MultiLabel in kinds or aims.dtype == torch.bool:
        return MultiLabel(**settings)
    if outputs.shape == aims.shape and outputs.dim() == 2 and outputs.shape[1] > 1:
        sums = bool(((values.sum(1) - 1).abs() < 1e-4).all()) and bool((values >= 0).all())
        if sums and (not binary or Classification in kinds):
            return Classification(**settings)
        if sums:
            raise _doubt(outputs, aims, "kmr.tasks.Classification (one class each) or kmr.tasks.MultiLabel")
        if binary:
            return MultiLabel(**settings)
    elif outputs.dim() > aims.dim() and outputs.shape[1] > 1 and bool((values == values.round()).all()):
        raise KMRError(
            f"targets are {aims.dtype} of shape {tuple(aims.shape)}, outputs have shape {tuple(outputs.shape)}: "
            "class numbers must be integers; convert them with .long()"
        )
    elif binary and len(values) > 2:
        raise _doubt(outputs, aims, "kmr.tasks.MultiLabel (yes or no) or kmr.tasks.Regression (numbers)")
    Regression().aligned(outputs, aims)
    return Regression()


def _doubt(outputs: Tensor, aims: Tensor, choices: str) -> KMRError:
    return KMRError(
        f"outputs of shape {tuple(outputs.shape)} and {aims.dtype} targets of shape {tuple(aims.shape)} fit more than "
        f"one task, or none: set task to one of {choices}"
    )
