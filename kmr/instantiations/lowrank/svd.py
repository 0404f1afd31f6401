"""Low-rank factors by truncated singular values (Algorithm 8): one layer becomes two thinner ones in a row.

A linear layer W ≈ B·A becomes two linear layers (Denton et al. 2014). A convolution, its kernels unfolded to a matrix
of out × (in · kernel), becomes one of r kernels followed by a 1 × 1 convolution (Zhang et al. 2016).
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias, cast, final

import torch
from torch import Tensor, nn

from kmr.activations import QuantizedLayer, quantize_activations
from kmr.core import Domain, FloatRange, KMRError, Knob, NotApplicable, Trait, Value
from kmr.data import Split
from kmr.instantiations.attention import leave_fast_path
from kmr.instantiations.layers import LayerRule
from kmr.instantiations.lowrank.factors import Spectrum, spectrum
from kmr.instantiations.lowrank.moments import input_moments
from kmr.instantiations.lowrank.ranks import RANKINGS, energy_rank, kept_rank, share_rank
from kmr.instantiations.quantization import channel_dim, fit_like
from kmr.weights import WeightLayer, WeightState, read_weight, write_weight

Factorable: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


@final
@dataclass(frozen=True, kw_only=True)
class LowRank(LayerRule):
    """Replace layers by two of lower rank, wherever the two hold fewer parameters.

    The value is the share of a layer's weights that its two factors may hold, of the energy they keep, or of its full
    rank; the rank follows from it. The factors of a weight on a grid get grids of the same bits and scheme; those of a
    masked weight are dense. Where a layer's activations are quantized those between its factors are not.

    Args:
        by: what the value is a share of: `parameters`, `energy` (the squared singular values) or `rank`.
        error: what the factors keep small: the error of the `weights`, or that of the layer's `outputs` on its inputs
            (activation-aware: singular values of the weight times the root of its inputs' second moment).
        data: the samples whose inputs count, with `error` = outputs.
        samples: how many of them.
    """

    name: str = "lowrank"
    by: Literal["parameters", "energy", "rank"] = "parameters"
    error: Literal["weights", "outputs"] = "weights"
    data: Split | None = field(default=None, repr=False)
    samples: int = 256
    setting: ClassVar[str] = "keep"
    domain: ClassVar[Domain] = FloatRange(0.05, 1.0, neutral=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by not in RANKINGS:
            raise KMRError(f"{self.name} chooses ranks by {', '.join(RANKINGS)}, not {self.by!r}")
        if self.error not in ("weights", "outputs"):
            raise KMRError(f"{self.name} keeps the error of weights or outputs small, not {self.error!r}")
        if self.error == "outputs" and (self.data is None or self.samples < 1):
            raise KMRError(f"{self.name} needs data, and at least 1 of its samples, to know the inputs of layers")

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"structure"})

    @property
    def precedes(self) -> frozenset[Trait]:
        return frozenset({"masks", "activation grids"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        layers = self.weights_of(model, knob)
        factorable = {path: cast(Factorable, layer) for path, layer in layers.items() if _is_factorable(layer)}
        self.report(
            layers.keys() - factorable,
            "left as they are: neither a plain linear layer nor a convolution without groups",
        )
        read_by_parent = _attention_outputs(model) & factorable.keys()
        self.report(read_by_parent, "left as they are: the attention around them reads their weight")
        own = {path: layer for path, layer in factorable.items() if path not in read_by_parent}
        moments = self._moments(model, own)
        dense, unmasked = [], []
        for path, layer in own.items():
            matrix = _matrix(read_weight(layer).weight)
            found = _decomposed(matrix, moments.get(path))
            rank = self._rank(matrix, found, float(value))
            if rank * sum(matrix.shape) >= matrix.numel():
                dense.append(path)
                continue
            if read_weight(layer).keep is not None:
                unmasked.append(path)
            model = replace_module(model, layer, _factorise(layer, *found.factors(rank)))
        if len(dense) + len(read_by_parent) == len(factorable):
            raise NotApplicable(f"{knob.name}={value}: no layer would hold fewer parameters as two factors")
        self.report(dense, "left dense: two factors of that rank would hold no fewer parameters")
        self.report(unmasked, "the mask is gone: the factors of a masked weight are dense")
        leave_fast_path(model)
        return model

    def _moments(self, model: nn.Module, layers: Mapping[str, Factorable]) -> dict[str, Tensor]:
        if self.error == "weights" or self.data is None:
            return {}
        moments = input_moments(model, layers, self.data, self.samples)
        self.report(layers.keys() - moments, "factors of the weight alone: no sample of the data reached it")
        return moments

    def _rank(self, matrix: Tensor, found: Spectrum, value: float) -> int:
        rows, columns = matrix.shape
        match self.by:
            case "parameters":
                return kept_rank((rows, columns), value)
            case "energy":
                return energy_rank(found.singular, value)
            case "rank":
                return share_rank((rows, columns), value)


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put a module wherever another is used, in place; return the model (`new` if that was `old`)."""
    if model is old:
        return new
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                parent.register_module(name, new)
    return model


def _matrix(weight: Tensor) -> Tensor:
    return weight.flatten(1)


def _is_factorable(layer: WeightLayer) -> bool:
    """Tell whether a layer computes what its class does in torch; a subclass may compute something else."""
    kind = next((kind for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(layer, kind)), None)
    as_in_torch = kind is not None and (isinstance(layer, QuantizedLayer) or type(layer).forward is kind.forward)
    return as_in_torch and getattr(layer, "groups", 1) == 1


def _attention_outputs(model: nn.Module) -> set[str]:
    """Return the paths of the output projections that attention multiplies with by itself."""
    return {
        f"{path}.out_proj".lstrip(".")
        for path, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
    }


def _decomposed(matrix: Tensor, moment: Tensor | None) -> Spectrum:
    try:
        return spectrum(matrix, moment)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise NotApplicable(f"a weight has no singular values: {error}") from error


def _factorise(layer: Factorable, first: Tensor, second: Tensor) -> nn.Sequential:
    state, rank = read_weight(layer), len(first)
    like = {"device": state.weight.device, "dtype": state.weight.dtype}
    biased = layer.bias is not None
    pair: tuple[nn.Module, nn.Module]
    if isinstance(layer, nn.Linear):
        pair = (
            nn.Linear(layer.in_features, rank, bias=False, **like),
            nn.Linear(rank, layer.out_features, bias=biased, **like),
        )
    else:
        convolution: Any = next(kind for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(layer, kind))
        spatial: dict[str, Any] = {
            name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation")
        }
        pair = (
            convolution(layer.in_channels, rank, **spatial, padding_mode=layer.padding_mode, bias=False, **like),
            convolution(rank, layer.out_channels, kernel_size=1, bias=biased, **like),
        )
    trainable = next(p for name, p in layer.named_parameters() if name != "bias").requires_grad
    for factor, weight in zip(pair, (first, second), strict=True):
        weight = weight.reshape(cast(nn.Parameter, factor.weight).shape)
        grid = None if state.grid is None else fit_like(state, weight, channel_dim(factor))
        cast(nn.Parameter, factor.weight).requires_grad_(trainable)
        write_weight(factor, WeightState(weight, grid))
    if layer.bias is not None:
        pair[1].bias = layer.bias
    if isinstance(layer, QuantizedLayer):
        quantize_activations(pair[0], inputs=layer.input_quantizer)
        quantize_activations(pair[1], inputs=None, outputs=layer.output_quantizer)
    return nn.Sequential(OrderedDict(first=pair[0], second=pair[1])).train(layer.training)
