"""Intermediate features of a model, and the pairing of a student's with a teacher's."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.data import Inputs, call
from kmr.instantiations.teachers import evaluating


@contextmanager
def tapped(model: nn.Module, paths: Iterator[str] | list[str]) -> Iterator[dict[str, Tensor]]:
    """Yield a mapping that holds, after each forward pass, the latest outputs of the modules at these paths.

    Raises:
        KMRError: the model has no module at a path.
    """
    seen: dict[str, Tensor] = {}
    handles = []

    def keep(path: str) -> None:
        try:
            module = model.get_submodule(path)
        except AttributeError:
            known = ", ".join(name for name, _ in model.named_children())
            raise KMRError(f"the model has no module {path} to take features from: at its top are {known}") from None

        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            first = output[0] if isinstance(output, tuple | list) else output
            if isinstance(first, Tensor):
                seen[path] = first

        handles.append(module.register_forward_hook(hook))

    try:
        for path in paths:
            keep(path)
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def features_of(model: nn.Module, paths: list[str], inputs: Inputs) -> dict[str, Tensor]:
    """Return the features of a model in evaluation mode, without gradients, by path.

    Raises:
        KMRError: a module does not exist, is not called, or returns no tensor.
    """
    with evaluating(model), torch.no_grad(), tapped(model, paths) as seen:
        call(model, inputs)
    if missing := [path for path in paths if path not in seen]:
        raise KMRError(f"{', '.join(missing)} has no feature: the module is not called, or returns no tensor")
    return dict(seen)


def matching_pairs(student: nn.Module, teacher: nn.Module, inputs: Inputs) -> dict[str, str]:
    """Pair the stages of a student and a teacher: top-level modules with the same name.

    Stages are the modules that contain others with parameters, or, without any, all modules with parameters except the
    last, which makes the output. Only stages whose features have the same positions are paired.

    Raises:
        KMRError: no stage matches.
    """
    ours, theirs = _stages(student), _stages(teacher)
    common = [name for name in ours if name in theirs]
    first, second = features_of(student, common, inputs), features_of(teacher, common, inputs)
    pairs = {name: name for name in common if _places(first[name]) == _places(second[name])}
    if not pairs:
        raise KMRError(
            "no features of the student and the teacher match by name: set pairs, as {student module: teacher module}"
        )
    return pairs


def checked_pairs(
    pairs: Mapping[str, str], count: int | None, student: nn.Module, teacher: nn.Module, inputs: Inputs
) -> dict[str, str]:
    """Return the given pairs, or those that match by name; only the last `count`, which are the deepest."""
    chosen = list((pairs or matching_pairs(student, teacher, inputs)).items())
    return dict(chosen if count is None else chosen[-count:])


def _stages(model: nn.Module) -> list[str]:
    weighted = [(name, child) for name, child in model.named_children() if any(True for _ in child.parameters())]
    containers = [name for name, child in weighted if any(True for _ in child.children())]
    return containers or [name for name, _ in weighted[:-1]]


def _places(feature: Tensor) -> torch.Size:
    """Return a feature's size without its channels: dimension 1, or the last of a feature with at most three."""
    return feature.shape[:1] + (feature.shape[1:-1] if feature.dim() <= 3 else feature.shape[2:])
