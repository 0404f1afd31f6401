"""Quantization of weights and activations, with ranges of activations from calibration (static) or at run time."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from kmr.cache import derived
from kmr.core import Choice, Domain, KMRError, Knob, NotApplicable, Trait, Value
from kmr.data import Inputs, Split
from kmr.instantiations.attention import leave_fast_path, split_attention
from kmr.instantiations.layer_rule import LayerRule
from kmr.instantiations.quantization.calibration import calibration_batches, observe, uses
from kmr.instantiations.quantization.equalization import equalize
from kmr.instantiations.quantization.folding import fold_norms
from kmr.instantiations.quantization.quantizers import affine_grid, channel_dim, fit_grid
from kmr.instantiations.quantization.ranges import RANGES, TensorStatistics
from kmr.representation.activations import ActivationQuantizer, DynamicQuantizer, can_quantize, quantize_activations
from kmr.representation.weights import WeightLayer, WeightState, read_weight, write_weight

_SIDES = ("into", "out")


@dataclass(frozen=True, kw_only=True)
class _BothQuantization(LayerRule):
    """Grids for weights per output channel and for activations per tensor, both with the knob's bits.

    Args:
        weight_bits: bits of the weights if they differ from those of the activations, 1 to 16; 32 skips weights.
        weight_scheme: `symmetric` (for integer kernels) or `affine`.
        learned: train the steps of weights (and of static activations) with the model (LSQ).
    """

    weight_bits: int | None = None
    weight_scheme: Literal["symmetric", "affine"] = "symmetric"
    learned: bool = False
    setting: ClassVar[str] = "bits"
    domain: ClassVar[Domain] = Choice((8, 7, 6, 5, 4, 3, 2), neutral=32)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight_scheme not in ("symmetric", "affine"):
            raise KMRError(f"the weight_scheme of {self.name} must be symmetric or affine, not {self.weight_scheme!r}")
        if self.weight_bits is not None and not (1 <= self.weight_bits <= 16 or self.weight_bits == 32):
            raise KMRError(f"weight_bits of {self.name} must be 1 to 16, or 32, not {self.weight_bits}")

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"weight grids"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        bits = int(value)
        model, read_by_parent = split_attention(model, lambda path: self.reaches(knob, path))
        self.report(read_by_parent, "attention left as it is: it is customised or shares weights")
        layers = self.weights_of(model, knob)
        self._quantize_activations(model, knob, layers, bits)
        self._quantize_weights(layers, bits)
        leave_fast_path(model)
        return model

    @abstractmethod
    def _quantize_activations(
        self, model: nn.Module, knob: Knob, layers: Mapping[str, WeightLayer], bits: int
    ) -> None: ...

    def _quantize_weights(self, layers: Mapping[str, WeightLayer], bits: int) -> None:
        weight_bits = bits if self.weight_bits is None else self.weight_bits
        if weight_bits == 32:
            return
        already = []
        for path, layer in layers.items():
            state = read_weight(layer)
            if state.bits <= weight_bits:
                already.append(path)
                continue
            grid = fit_grid(
                state.weight, weight_bits, scheme=self.weight_scheme, dim=channel_dim(layer), learned=self.learned
            )
            write_weight(layer, WeightState(state.weight, grid, state.keep))
        self.report(already, f"weights left as they are: already in {weight_bits} bits or fewer")

    def _reachable(self, layers: Mapping[str, WeightLayer]) -> dict[str, WeightLayer]:
        others = {path for path, layer in layers.items() if not can_quantize(layer) and not _takes_indices(layer)}
        self.report(others, "activations left as they are: not a plain linear layer or convolution")
        return {path: layer for path, layer in layers.items() if can_quantize(layer)}


@final
@dataclass(frozen=True, kw_only=True)
class StaticQuantization(_BothQuantization):
    """Grids for weights and activations, with activation ranges fixed by calibration (PTQ static).

    Later training keeps both roundings (QAT). The rule first folds batch normalisations into the layers before them. It
    quantizes the inputs of every governed linear layer and convolution, and the outputs of those that go into a sum.

    Args:
        data: calibration samples, which the rule requires.
        example_inputs: a batch to trace the model with; by default the first samples of `data`.
        samples: number of calibration samples, from the start of `data`; at least 1.
        observer: how to choose the range: `minmax`, `moving_average`, `percentile`, `mse` or `entropy`.
        fold: fold batch normalisation.
        equalize: first equalize the ranges of weights across layers (`equalization`).
        sums: quantize the outputs of layers that are added up.

    Raises:
        KMRError: a setting is invalid, or there is no data.
    """

    name: str = "static"
    data: Split | None = field(default=None, repr=False)
    example_inputs: Inputs = field(default=None, repr=False, compare=False)
    samples: int = 512
    observer: Literal["minmax", "moving_average", "percentile", "mse", "entropy"] = "mse"
    fold: bool = True
    equalize: bool = False
    sums: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.observer not in RANGES:
            raise KMRError(f"the observer of {self.name} must be {', '.join(RANGES)}, not {self.observer!r}")
        calibration_batches(self.data, self.samples, self.name)

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"weight grids", "activation grids"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        if self.fold:
            fold_norms(model, self._example(), lambda path: self.governs(knob, path))
        if self.equalize:
            equalize(model, self._example(), lambda path: self.governs(knob, path))
        return super().apply(model, knob, value)

    def _example(self) -> Inputs:
        if self.example_inputs is not None:
            return self.example_inputs
        assert self.data is not None
        return self.data.first_inputs(2)

    def _quantize_activations(self, model: nn.Module, knob: Knob, layers: Mapping[str, WeightLayer], bits: int) -> None:
        reachable = self._reachable(layers)
        for layer in reachable.values():
            quantize_activations(layer, inputs=None)
        summed = {
            path: layer for path, layer in reachable.items() if self.sums and path in _summed(model, self._example())
        }
        into, out = self._observe(model, reachable, summed)
        self.report(reachable.keys() - into.keys(), "activations left as they are: not called on the calibration data")
        if reachable and not into:
            raise NotApplicable(f"{knob.name}: no layer is called on the calibration data")
        for path, layer in reachable.items():
            quantize_activations(
                layer,
                inputs=self._quantizer(into[path], bits) if path in into else None,
                outputs=self._quantizer(out[path], bits) if path in out else None,
            )

    def _observe(
        self, model: nn.Module, reachable: Mapping[str, nn.Module], summed: Mapping[str, nn.Module]
    ) -> tuple[dict[str, TensorStatistics], dict[str, TensorStatistics]]:
        def seen() -> dict[str, Tensor]:
            both = observe(model, reachable, summed, calibration_batches(self.data, self.samples, self.name))
            return {
                f"{side} {name} {path}": tensor
                for side, found in zip(_SIDES, both, strict=True)
                for path, one in found.items()
                for name, tensor in vars(one).items()
            }

        found = derived(
            "calibration", seen,
            model=model, into=sorted(reachable), out=sorted(summed), data=self.data, samples=self.samples,
        )  # fmt: skip
        sides: dict[str, dict[str, dict[str, Tensor]]] = {side: {} for side in _SIDES}
        for key, tensor in found.items():
            side, name, path = key.split(" ", 2)
            sides[side].setdefault(path, {})[name] = tensor
        into, out = ({path: TensorStatistics(**parts) for path, parts in sides[side].items()} for side in _SIDES)
        return into, out

    def _quantizer(self, seen: TensorStatistics, bits: int) -> ActivationQuantizer:
        low, high = RANGES[self.observer](seen, bits)
        scale, zero_point = affine_grid(torch.tensor([low, high]), bits)
        return ActivationQuantizer(float(scale), float(zero_point), bits, learned=self.learned)


@final
@dataclass(frozen=True, kw_only=True)
class DynamicQuantization(_BothQuantization):
    """Grids for weights, and activations rounded to their range at run time (PTQ dynamic); needs no data.

    The rule quantizes the inputs of every governed linear layer and convolution.

    Args:
        rows: use one range for each vector along the last dimension (each token), instead of one for the whole batch.
    """

    name: str = "dynamic"
    rows: bool = False

    def _quantize_activations(self, model: nn.Module, knob: Knob, layers: Mapping[str, WeightLayer], bits: int) -> None:
        for layer in self._reachable(layers).values():
            quantize_activations(layer, inputs=DynamicQuantizer(bits, rows=self.rows))


def _takes_indices(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Embedding)


def _summed(model: nn.Module, inputs: Inputs) -> set[str]:
    """Return the paths of modules whose output goes into a sum, directly or through the identity of a folded norm."""
    found = uses(model, inputs)
    modules = dict(model.named_modules())

    def goes_into_sum(path: str) -> bool:
        return any(
            reader in _SUMS or (isinstance(modules.get(reader), nn.Identity) and goes_into_sum(reader))
            for reader in found.get(path, ())
        )

    return {path for path in found if goes_into_sum(path)}


_SUMS = frozenset({"add", "add_", "__add__", "__iadd__", "__radd__"})
