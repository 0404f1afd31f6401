"""Bit operations: multiply-accumulates weighted by the bit widths of their operands (Baskin et al. 2018)."""

from dataclasses import dataclass, field

from torch import nn

from kmr.core import Cost, Reading
from kmr.data import Inputs
from kmr.meters.macs import count_macs
from kmr.representation.activations import QuantizedLayer
from kmr.representation.weights import read_weight, weight_layers

FLOAT_BITS = 32


def layer_bits(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return the bit widths (weight, input) of every weight layer, by path; 32 without a grid."""
    bits = {}
    for path, layer in weight_layers(model):
        grid = read_weight(layer).grid
        quantizer = layer.input_quantizer if isinstance(layer, QuantizedLayer) else None
        inputs = FLOAT_BITS if quantizer is None else int(getattr(quantizer, "bits", FLOAT_BITS))
        bits[path] = (FLOAT_BITS if grid is None else grid.bits, inputs)
    return bits


@dataclass(frozen=True, kw_only=True)
class BOPs(Cost):
    """Bit operations for one sample on bit-serial hardware: Σ MACs · weight bits · activation bits.

    Unit: BOP (theoretical). Range: [0, ∞). Direction: minimize. Source: Baskin et al. 2018.

    Multiply-accumulates outside convolution and linear layers count at 32 × 32 bits. The latency of the available
    runtimes is not proportional to bit operations; use `Latency` for decisions.

    Args:
        example_inputs: a batch as the model takes it; the meter uses the first sample.
    """

    example_inputs: Inputs = field(repr=False, compare=False)
    name: str = "bops"
    unit: str = field(init=False, default="BOP (theoretical)")

    def read(self, seen: nn.Module) -> Reading:
        total, layers = count_macs(seen, self.example_inputs)
        bits = layer_bits(seen)
        saved = 0
        for path, layer in layers.items():
            of_weight, of_input = bits.get(path, (FLOAT_BITS, FLOAT_BITS))
            saved += layer.macs * (FLOAT_BITS**2 - of_weight * of_input)
        return Reading(float(total * FLOAT_BITS**2 - saved))
