"""Low-rank factors by truncated singular values (Algorithm 8): one layer becomes two thinner ones in a row.

A linear layer W ≈ B·A becomes two linear layers (Denton et al. 2014). A convolution, its kernels unfolded to a matrix
of out × (in · kernel), becomes one of r kernels followed by a 1 × 1 convolution (Zhang et al. 2016).
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, cast, final

import torch
from torch import Tensor, nn

from kmr.activations import QuantizedLayer, quantize_activations
from kmr.core import Domain, FloatRange, Knob, NotApplicable, Value
from kmr.instantiations.attention import leave_fast_path
from kmr.instantiations.layers import LayerRule
from kmr.instantiations.quantization import channel_dim, fit_like
from kmr.weights import WeightLayer, WeightState, read_weight, write_weight

Factorable: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def truncated_factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the best approximation of a rank as a product, `second @ first`.

    Args:
        matrix: of shape (m, n).
        rank: r, 1 to min(m, n).

    Returns:
        `first` of shape (r, n) and `second` of shape (m, r), each carrying the square root of the singular values.
    """
    precise = matrix if matrix.dtype == torch.float64 else matrix.float()
    left, singular, right = torch.linalg.svd(precise, full_matrices=False)
    root = singular[:rank].sqrt()
    return (root[:, None] * right[:rank]).to(matrix.dtype), (left[:, :rank] * root).to(matrix.dtype)


def kept_rank(matrix_shape: tuple[int, int], keep: float) -> int:
    """Return the largest rank whose two factors hold at most this share of the matrix's entries, at least 1."""
    rows, columns = matrix_shape
    return max(1, math.floor(keep * rows * columns / (rows + columns) + 1e-9))


@final
@dataclass(frozen=True, kw_only=True)
class LowRank(LayerRule):
    """Replace layers by two of lower rank, wherever the two hold fewer parameters.

    The value is the share of a layer's weights that its two factors may hold; the rank follows from it. The factors of
    a weight on a grid get grids of the same bits and scheme; those of a masked weight are dense. Where a layer's
    activations are quantized those between its factors are not.
    """

    name: str = "lowrank"
    setting: ClassVar[str] = "keep"
    domain: ClassVar[Domain] = FloatRange(0.05, 1.0, neutral=1.0)

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        layers = self.weights_of(model, knob)
        factorable = {path: cast(Factorable, layer) for path, layer in layers.items() if _is_factorable(layer)}
        self.report(
            layers.keys() - factorable,
            "left as they are: neither a plain linear layer nor a convolution without groups",
        )
        read_by_parent = _attention_outputs(model) & factorable.keys()
        self.report(read_by_parent, "left as they are: the attention around them reads their weight")
        dense, unmasked = [], []
        for path, layer in factorable.items():
            if path in read_by_parent:
                continue
            rank = kept_rank(_matrix(layer.weight).shape, float(value))  # type: ignore[arg-type]
            if rank * sum(_matrix(layer.weight).shape) >= layer.weight.numel():
                dense.append(path)
                continue
            if read_weight(layer).keep is not None:
                unmasked.append(path)
            model = replace_module(model, layer, _factorise(layer, rank))
        if len(dense) + len(read_by_parent) == len(factorable):
            raise NotApplicable(f"{knob.name}={value}: no layer would hold fewer parameters as two factors")
        self.report(dense, "left dense: two factors of that rank would hold no fewer parameters")
        self.report(unmasked, "the mask is gone: the factors of a masked weight are dense")
        leave_fast_path(model)
        return model


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


def _factorise(layer: Factorable, rank: int) -> nn.Sequential:
    state = read_weight(layer)
    try:
        first, second = truncated_factors(_matrix(state.weight), rank)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise NotApplicable(f"a weight has no singular values: {error}") from error
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
