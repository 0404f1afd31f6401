"""Weight quantization (Algorithm 5): every weight of a layer stays on one of 2^bits levels."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

from torch import nn

from kmr.core import Choice, Domain, KMRError, Knob, Trait, Value
from kmr.data import Split
from kmr.instantiations.attention import split_attention
from kmr.instantiations.layer_rule import LayerRule
from kmr.instantiations.quantization.calibration import calibration_batches
from kmr.instantiations.quantization.quantizers import QUANTIZERS, channel_dim, fit_grid
from kmr.instantiations.quantization.rounding import correct_biases, output_means, round_by_layer
from kmr.representation.weights import Grid, WeightLayer, WeightState, read_weight, weight_layers, write_weight


@final
@dataclass(frozen=True, kw_only=True)
class WeightQuantization(LayerRule):
    """Grids for weights, with the knob's bits, fitted to the present weights.

    A layer whose grid already has at most as many bits keeps it. Masks stay and are applied after the grid. The packed
    projections of attention become separate layers (`kmr.instantiations.attention`) and are rounded too. Later training
    keeps the weights on their grids (QAT, weights only).

    Args:
        scheme: `affine` (levels over the range, including 0), `symmetric` (symmetric around 0, with a level at 0),
            `midrise` (symmetric around 0, without a level at 0) or `kmr` (the paper's Δ). With 1 bit, all are
            sign(w)·mean|w|.
        granularity: one grid for each output `channel`, or one for the `tensor`.
        group: entries of a row that share a grid instead (`kmr.representation.weights.Grid`); 0 for no groups.
        clip: levels over the whole `range` of the weights, or over the share of it with the least squared error, `mse`.
        power_of_two: use powers of two as scales.
        rounding: each weight to the `nearest` level, or in sequence to preserve the layer's outputs on calibration data
            (`gptq`, Frantar et al. 2023).
        bias_correction: shift biases by the mean change of each output channel on calibration data (Nagel et al. 2019).
        learned: train scales with the model (LSQ, Esser et al. 2020).
        data: calibration samples, which `gptq` and `bias_correction` need.
        samples: number of calibration samples, from the start of `data`.

    Raises:
        KMRError: a setting is invalid, or required data is missing.
    """

    name: str = "quantize"
    scheme: Literal["affine", "symmetric", "midrise", "kmr"] = "affine"
    granularity: Literal["channel", "tensor"] = "channel"
    group: int = 0
    clip: Literal["range", "mse"] = "range"
    power_of_two: bool = False
    rounding: Literal["nearest", "gptq"] = "nearest"
    bias_correction: bool = False
    learned: bool = False
    data: Split | None = field(default=None, repr=False)
    samples: int = 256
    raises: ClassVar[frozenset[str]] = frozenset({"trainable_parameters"})  # where levels are learned
    setting: ClassVar[str] = "bits"
    domain: ClassVar[Domain] = Choice((16, 8, 7, 6, 5, 4, 3, 2, 1), neutral=32)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scheme not in QUANTIZERS:
            raise KMRError(f"the scheme of {self.name} must be {', '.join(QUANTIZERS)}, not {self.scheme!r}")
        if self.granularity not in ("channel", "tensor"):
            raise KMRError(f"the granularity of {self.name} must be channel or tensor, not {self.granularity!r}")
        if self.clip not in ("range", "mse"):
            raise KMRError(f"the clip of {self.name} must be range or mse, not {self.clip!r}")
        if self.rounding not in ("nearest", "gptq"):
            raise KMRError(f"the rounding of {self.name} must be nearest or gptq, not {self.rounding!r}")
        if self.group < 0:
            raise KMRError(f"the group of {self.name} must be at least 1, or 0 for no groups, not {self.group}")
        if self.rounding != "nearest" or self.bias_correction:
            calibration_batches(self.data, self.samples, self.name)

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"weight grids"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        bits = int(value)
        fits = f"left as they are: already in {bits} bits or fewer"
        governed = [path for path, _ in weight_layers(model) if self.governs(knob, path)]
        if governed and not _has_more(model, bits):
            self.report(governed, fits)
            return model
        model, left = split_attention(
            model, lambda path: self.reaches(knob, path) and _has_more(model.get_submodule(path), bits)
        )
        self.report(left, "attention left as it is: it has keys of its own, shared weights or code of its own")
        layers = self.weights_of(model, knob)
        states = {path: read_weight(layer) for path, layer in layers.items()}
        already = [path for path, state in states.items() if state.bits <= bits]
        self.report(already, fits)
        chosen = {path: layer for path, layer in layers.items() if path not in already}
        if not chosen:
            return model
        before = output_means(model, chosen, self._batches()) if self.bias_correction else {}
        if self.rounding == "gptq":
            missed = round_by_layer(model, chosen, lambda layer: self._grid(layer, bits), self._batches())
            self.report(
                missed, "rounded to nearest: the layer has no Gram matrix, or is not called on calibration data"
            )
        else:
            for layer in chosen.values():
                state = read_weight(layer)
                write_weight(layer, WeightState(state.weight, self._grid(layer, bits), state.keep))
        if self.bias_correction:
            self.report(
                correct_biases(model, chosen, before, self._batches()),
                "without bias correction: the layer has no bias",
            )
        return model

    def _grid(self, layer: WeightLayer, bits: int) -> Grid:
        return fit_grid(
            read_weight(layer).weight,
            bits,
            scheme=self.scheme,
            dim=channel_dim(layer) if self.granularity == "channel" else None,
            group=self.group,
            clip=self.clip,
            power_of_two=self.power_of_two,
            learned=self.learned,
        )

    def _batches(self) -> list[object]:
        return calibration_batches(self.data, self.samples, self.name)


def _has_more(module: nn.Module, bits: int) -> bool:
    """Tell whether any parameter of a module has a dtype of more bits."""
    return any(8 * parameter.element_size() > bits for parameter in module.parameters())
