"""Weight quantization (Algorithm 5): every weight of a layer becomes one of 2^bits levels and stays one."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import nn

from kmr.core import Choice, Domain, KMRError, Knob, Value
from kmr.instantiations.layers import LayerRule
from kmr.instantiations.quantization.quantizers import QUANTIZERS, channel_dim, fit_grid
from kmr.weights import WeightState, read_weight, write_weight


@final
@dataclass(frozen=True, kw_only=True)
class WeightQuantization(LayerRule):
    """Round weights to grids of a number of bits, fitted to the range of what the model computes with now.

    A layer whose grid has that many bits or fewer keeps it; a mask stays the mask and is applied after the grid.

    Args:
        scheme: `affine` (levels over the range, 0 among them), `symmetric` (evenly around 0) or `kmr` (the paper's Δ).
        granularity: one grid for each output `channel`, or one for the `tensor`.
    """

    name: str = "quantize"
    scheme: Literal["affine", "symmetric", "kmr"] = "affine"
    granularity: Literal["channel", "tensor"] = "channel"
    setting: ClassVar[str] = "bits"
    domain: ClassVar[Domain] = Choice((8, 7, 6, 5, 4, 3, 2), neutral=32)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scheme not in QUANTIZERS:
            raise KMRError(f"the scheme of {self.name} must be {', '.join(QUANTIZERS)}, not {self.scheme!r}")
        if self.granularity not in ("channel", "tensor"):
            raise KMRError(f"the granularity of {self.name} must be channel or tensor, not {self.granularity!r}")

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        bits = int(value)
        already: list[str] = []
        for path, layer in self.weights_of(model, knob).items():
            state = read_weight(layer)
            if state.grid is not None and state.grid.bits <= bits:
                already.append(path)
                continue
            dim = channel_dim(layer) if self.granularity == "channel" else None
            grid = fit_grid(state.weight, bits, scheme=self.scheme, dim=dim)
            write_weight(layer, WeightState(state.weight, grid, state.keep))
        self.report(already, f"left as they are: on a grid of {bits} bits or fewer already")
        return model
