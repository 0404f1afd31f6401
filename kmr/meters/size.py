"""Size of a model: parameters, trainable and nonzero parameters, and bytes in storage."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from kmr.artifact.packing import file_bytes, pack
from kmr.artifact.slots import slots, unique
from kmr.core import Cost, Reading
from kmr.representation.weights import read_weight, weight_layers


@dataclass(frozen=True, kw_only=True)
class Parameters(Cost):
    """The number of parameters, tied ones once; a weight under a grid or mask counts as one weight.

    Unit: parameters. Range: [0, ∞). Direction: minimize.

    Buffers, such as scales, zero points and masks, are not parameters.
    """

    static: ClassVar[bool] = True
    name: str = "parameters"
    unit: str = field(init=False, default="parameters")

    def read(self, seen: nn.Module) -> Reading:
        return Reading(float(sum(slot.tensor.numel() for slot in unique(slots(seen)) if slot.parameter)))


@dataclass(frozen=True, kw_only=True)
class TrainableParameters(Cost):
    """The number of parameters that an optimizer would update, tied ones once, including learned scales and levels.

    Unit: parameters. Range: [0, ∞). Direction: minimize.
    """

    static: ClassVar[bool] = True
    name: str = "trainable_parameters"
    unit: str = field(init=False, default="parameters")

    def read(self, seen: nn.Module) -> Reading:
        return Reading(float(sum(parameter.numel() for parameter in seen.parameters() if parameter.requires_grad)))


@dataclass(frozen=True, kw_only=True)
class NonzeroParameters(Cost):
    """The number of parameters that no mask holds at zero, tied ones once.

    Unit: parameters. Range: [0, ∞). Direction: minimize.

    A value that happens to be 0 counts, because the next optimizer step may change it.
    """

    static: ClassVar[bool] = True
    name: str = "nonzero_parameters"
    unit: str = field(init=False, default="parameters")

    def read(self, seen: nn.Module) -> Reading:
        total = sum(slot.tensor.numel() for slot in unique(slots(seen)) if slot.parameter)
        keeps = (read_weight(layer).keep for _, layer in weight_layers(seen))
        return Reading(float(total - sum(int((~keep).sum()) for keep in keeps if keep is not None)))


@dataclass(frozen=True, kw_only=True)
class WeightBytes(Cost):
    """The exact size of the safetensors file that `kmr.artifact.packing` writes for the model.

    Unit: B. Range: [0, ∞). Direction: minimize.

    The file holds everything that is needed to restore the weights exactly: bit-packed codes or raw values, the indices
    of a sparse weight, scales and zero points, all other parameters, persistent buffers (such as running statistics of
    normalisation), and the header with names, shapes and manifest. Tied tensors count once. The JSON that describes a
    changed architecture (`kmr.artifact.folder`) does not count.
    """

    static: ClassVar[bool] = True
    name: str = "weight_bytes"
    unit: str = field(init=False, default="B")

    def read(self, seen: nn.Module) -> Reading:
        return Reading(float(file_bytes(pack(seen))))
