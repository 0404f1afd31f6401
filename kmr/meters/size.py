"""How large a model is: parameters, those that are not zero, and bytes as they are really stored."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from kmr.artifact.packing import file_bytes, pack
from kmr.artifact.slots import slots, unique
from kmr.core import Cost, Reading
from kmr.representation.weights import read_weight, weight_layers


@dataclass(frozen=True, kw_only=True)
class Parameters(Cost):
    """The number of parameters, tied ones once; a weight under a grid or mask counts as the one weight it is.

    Unit: parameters. Range: [0, ∞). Direction: minimize.

    Buffers, and with them scales, zero points and masks, are not parameters.
    """

    static: ClassVar[bool] = True
    name: str = "parameters"
    unit: str = field(init=False, default="parameters")

    def read(self, seen: nn.Module) -> Reading:
        return Reading(float(sum(slot.tensor.numel() for slot in unique(slots(seen)) if slot.parameter)))


@dataclass(frozen=True, kw_only=True)
class TrainableParameters(Cost):
    """The number of parameters that an optimizer would move, tied ones once; a learned scale or level is one.

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

    A value that merely is 0 counts: the next optimizer step moves it, so no cost is saved for good.
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
    """The size of the safetensors file that `kmr.artifact.packing` writes for the model, to the byte.

    Unit: B. Range: [0, ∞). Direction: minimize.

    It counts everything needed to get the weights back exactly: bit-packed codes or raw values, which entries of a
    sparse weight are kept, scales and zero points, all other parameters, the persistent buffers (running statistics of
    normalisation, say), and the header with its names, shapes and manifest. Tied tensors count once. The JSON that
    describes a changed architecture (`kmr.artifact.folder`) does not count.
    """

    static: ClassVar[bool] = True
    name: str = "weight_bytes"
    unit: str = field(init=False, default="B")

    def read(self, seen: nn.Module) -> Reading:
        return Reading(float(file_bytes(pack(seen))))
