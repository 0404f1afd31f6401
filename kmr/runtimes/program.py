"""Exported programs: a model as a graph for other runtimes, by `torch.export` with a dynamic batch size."""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.data import Inputs, forward
from kmr.representation.early_exits import EarlyExits
from kmr.representation.weights import strip_all


@dataclass(frozen=True, eq=False)
class Signature:
    """The names and nesting of a model's input tensors; names are a mapping's keys, else `input` or `input_0`, …."""

    names: tuple[str, ...]
    form: Any

    @classmethod
    def of(cls, inputs: Inputs) -> "Signature":
        """Return the signature of a batch."""
        names: list[str] = []
        return cls(names=tuple(_names(inputs, "", names)), form=_form(inputs, [0]))

    def flatten(self, inputs: Inputs) -> list[Tensor]:
        """Return the tensors of a batch in the order of the names.

        Raises:
            KMRError: the batch has another number of tensors.
        """
        found: list[Tensor] = []
        _collect(inputs, found)
        if len(found) != len(self.names):
            raise KMRError(f"the model takes {len(self.names)} tensors ({', '.join(self.names)}), not {len(found)}")
        return found

    def restore(self, tensors: "tuple[Tensor, ...] | list[Tensor]") -> Inputs:
        """Return the tensors in the nesting of the batch."""
        return _restore(self.form, tensors)


class Flat(nn.Module):
    """A wrapper whose inputs are positional tensors and whose output is one tensor."""

    def __init__(self, model: nn.Module, signature: Signature) -> None:
        super().__init__()
        self.model = model
        self._signature = signature

    def forward(self, *tensors: Tensor) -> Tensor:
        """Run the model."""
        return forward(self.model, self._signature.restore(tensors))


def to_program(
    model: nn.Module, example_inputs: Inputs
) -> tuple[torch.export.ExportedProgram, Signature, tuple[Tensor, ...]]:
    """Export a plain copy of a model, with grids and masks baked into its weights and a dynamic batch size.

    Returns:
        The program over flat inputs, the signature of the inputs, and the two samples it was traced with.

    Raises:
        KMRError: `torch.export` cannot trace the model, or only for one batch size.
    """
    if any(isinstance(module, EarlyExits) for module in model.modules()):
        raise KMRError("cannot export a model with early exits as a graph: use its artifact, with kmr.load")
    signature = Signature.of(example_inputs)
    plain = strip_all(copy.deepcopy(model)).cpu().eval()
    # `torch.export` would treat a batch size of one as a constant.
    samples = tuple(_two_samples(tensor) for tensor in signature.flatten(example_inputs))
    shapes = tuple({0: torch.export.Dim.DYNAMIC} if tensor.dim() else None for tensor in samples)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(Flat(plain, signature).eval(), samples, dynamic_shapes=(shapes,))
    except Exception as error:  # tracing runs the user's own code
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise KMRError(f"torch.export cannot trace this model for batches of any size: {why}") from error
    return program, signature, samples


def _two_samples(tensor: Tensor) -> Tensor:
    if tensor.dim() == 0:
        return tensor
    pair = tensor[:2] if len(tensor) > 1 else torch.cat([tensor[:1], tensor[:1]])
    return pair.detach().cpu().contiguous()


def _names(inputs: Inputs, path: str, found: list[str]) -> list[str]:
    match inputs:
        case Tensor():
            found.append(path or "input")
        case Mapping():
            for key, value in inputs.items():
                _names(value, f"{path}_{key}" if path else str(key), found)
        case tuple() | list():
            for index, value in enumerate(inputs):
                _names(value, f"{path or 'input'}_{index}", found)
    return found


def _collect(inputs: Inputs, found: list[Tensor]) -> None:
    match inputs:
        case Tensor():
            found.append(inputs)
        case Mapping():
            for value in inputs.values():
                _collect(value, found)
        case tuple() | list():
            for value in inputs:
                _collect(value, found)


@dataclass(frozen=True)
class _Place:
    """A placeholder for the tensor with this number."""

    index: int


def _form(inputs: Inputs, count: list[int]) -> Any:
    match inputs:
        case Tensor():
            count[0] += 1
            return _Place(count[0] - 1)
        case Mapping():
            return {key: _form(value, count) for key, value in inputs.items()}
        case tuple() | list():
            return tuple(_form(value, count) for value in inputs)
        case _:
            return inputs


def _restore(form: Any, tensors: "tuple[Tensor, ...] | list[Tensor]") -> Any:
    match form:
        case _Place():
            return tensors[form.index]
        case dict():
            return {key: _restore(value, tensors) for key, value in form.items()}
        case tuple():
            return tuple(_restore(value, tensors) for value in form)
        case _:
            return form
