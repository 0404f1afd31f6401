"""The task of an experiment: the configured one, or the one that the first batch shows; it travels with the data."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from hydra.utils import get_object
from torch import Tensor, nn

from kmr.core import KMRError, Task
from kmr.core.copying import copied
from kmr.data import Data, Split, call, length_of, map_tensors
from kmr.data.structures import rows_of
from kmr.tasks import choose_task, task_before_call
from sweeps.errors import SweepError
from sweeps.experiment.instantiate import check_trust, part

OUTPUT_BYTES = 64e6
"""The largest outputs of an evaluation batch, in bytes."""


def with_task(model: nn.Module, data: Data, plain: Mapping[str, Any], trusted: tuple[str, ...]) -> Data:
    """Try the model on every split, and return the data with the task that its outputs and targets show.

    Evaluation batches are made smaller where outputs are large.

    Raises:
        SweepError: the model does not take the data, or outputs and targets do not fit the task or leave a doubt.
    """
    try:
        twin = copied(model).eval()
    except KMRError as error:
        raise SweepError(f"model: {error}") from error
    entry = plain.get("task")
    task = part("task", entry, trusted) if entry is not None else None
    if task is not None and not isinstance(task, Task):
        raise SweepError(f"task: a {type(task).__name__} is not a kmr.core.Task; name one in task._target_")
    size = None
    for name in ("train", "validation", "test"):
        split: Split = getattr(data, name)
        try:
            inputs, targets = next(split.subset(4).batches())
            task = task or task_before_call(targets)
            if task is not None:
                inputs, targets = task.prepare(inputs, targets)
            with torch.no_grad():
                returned = task.call(twin, inputs) if task is not None else call(twin, inputs)
        except Exception as error:  # a user's forward pass may raise anything
            raise SweepError(f"the model does not take the {name} data: {_line(error)}") from error
        try:
            if task is None:
                task = choose_task(
                    returned,
                    inputs,
                    targets,
                    losses=_losses(plain, trusted),
                    model=model,
                    fits=_fits(plain),
                    values=_held(split),
                )
                print(f"task: {_named(task)}, as outputs and targets show; task._target_ sets another")
                inputs, targets = task.prepare(inputs, targets)
            outputs = task.outputs(returned)
            _check_inputs(split, task, twin)
            task.scores(outputs, targets)
            _check_all(split, outputs, task)
        except KMRError as error:
            raise SweepError(f"{name} data: {error}") from error
        samples = length_of(targets if targets is not None else inputs)
        size = max(size or 0.0, _bytes(outputs) / max(1, samples))
    assert task is not None
    return _in_small_batches(data, task, size or 0.0)


def _held(split: Split) -> Tensor | None:
    """Return the targets of a split that are held in memory."""
    if not split.in_memory or not isinstance(split.source[1], Tensor):
        return None
    return split.source[1] if split.rows is None else split.source[1][split.rows]


def _check_inputs(split: Split, task: Task, model: nn.Module) -> None:
    """Raise `KMRError` for a sample held in memory whose inputs and outputs contain NaN."""
    place = _first_nan(split.source[0]) if split.in_memory and split.rows is None else None
    if place is None:
        return
    inputs, targets = (None if part is None else rows_of(part, slice(place, place + 1)) for part in split.source)
    with torch.no_grad():
        outputs = task.outputs(task.call(model, task.prepare(inputs, targets)[0]))
    if _first_nan(outputs) is not None:
        raise KMRError(
            f"inputs of sample {place} contain NaN, and so do the model's outputs: leave such samples out, or fill in "
            "what is missing"
        )


def _first_nan(part: Any) -> int | None:
    """Return the first sample of nested tensors that contains NaN."""
    found: list[int] = []

    def look(tensor: Tensor) -> None:
        if tensor.is_floating_point() and tensor.dim() and bool((wrong := tensor.isnan()).any()):
            found.append(int(wrong.reshape(len(tensor), -1).any(1).nonzero()[0]))

    map_tensors(look, part)
    return min(found, default=None)


def _check_all(split: Split, outputs: Any, task: Task) -> None:
    """Check all targets that are held in memory against outputs of the shape of the first ones."""
    targets = _held(split)
    if targets is None or not isinstance(outputs, Tensor):
        return
    wide = outputs[:1].detach()
    for inputs, aims in replace(
        split, task=task, batch_size=max(1, int(OUTPUT_BYTES / max(1.0, _bytes(wide))))
    ).batches():
        task.scores(wide.expand(length_of(inputs if aims is None else aims), *wide.shape[1:]), aims)


def _in_small_batches(data: Data, task: Task, size: float) -> Data:
    most = max(1, int(OUTPUT_BYTES / size)) if size > 0 else None
    made: dict[str, Any] = {}
    for name in ("train", "validation", "test"):
        split: Split = getattr(data, name)
        batch = split.batch_size
        if name != "train" and most is not None and most < batch:
            batch = most
        made[name] = replace(split, task=task, batch_size=batch)
    before = data.validation.batch_size
    if made["validation"].batch_size < before:
        print(f"eval_batch_size: {made['validation'].batch_size} instead of {before}, as outputs are large")
    return replace(data, **made)


def _losses(plain: Mapping[str, Any], trusted: tuple[str, ...]) -> Iterator[Any]:
    """Yield the configured losses as functions, to take hints from."""
    for recipe in ("train", "finetune"):
        entry = (plain.get(recipe) or {}).get("loss")
        if isinstance(entry, Mapping) and "_target_" in entry:
            check_trust(f"{recipe}.loss", entry, trusted)
            given = {key: value for key, value in entry.items() if not key.startswith("_")}
            target = get_object(str(entry["_target_"]))
            if isinstance(target, type) and issubclass(target, nn.Module):
                yield part(f"{recipe}.loss", entry, trusted)
            else:
                yield functools.partial(target, **given)


def _fits(plain: Mapping[str, Any]) -> list[type[Task]]:
    """Return the tasks that the configured meters are made for."""
    meters = (plain.get("meters") or {}).values()
    targets = [entry.get("_target_", "") for entry in meters if isinstance(entry, Mapping)]
    known = [get_object(str(target)) for target in targets if str(target).startswith("kmr.meters.")]
    return [kind for meter in known for kind in getattr(meter, "fits", ())]


def _named(task: Task) -> str:
    kind = type(task)
    if not dataclasses.is_dataclass(task):
        return kind.__qualname__
    given = [(entry.name, getattr(task, entry.name), entry.default) for entry in dataclasses.fields(task)]
    settings = ", ".join(f"{name}={value}" for name, value, default in given if value != default)
    return f"{kind.__module__.removesuffix('.' + kind.__module__.split('.')[-1])}.{kind.__qualname__}({settings})"


def _bytes(outputs: Any) -> float:
    found: list[int] = []
    map_tensors(lambda tensor: found.append(tensor.numel() * tensor.element_size()), outputs)
    return float(sum(found))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
