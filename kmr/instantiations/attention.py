"""Attention with separate projection layers, so that rules over layers reach them.

`nn.MultiheadAttention` keeps three projections in one packed parameter that no linear layer holds. `SplitAttention`
computes the same (Vaswani et al. 2017, section 3.2.2) with `q_proj`, `k_proj`, `v_proj` and `out_proj`.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.instantiations.replace import replace_module
from kmr.representation.activations import QuantizedLayer
from kmr.representation.weights import read_weight, write_weight


class SplitAttention(nn.Module):
    """Multi-head attention over four linear layers, called like `nn.MultiheadAttention`."""

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear

    # Transformer layers check these before they take a fused path that reads a packed weight.
    in_proj_bias: Tensor | None
    _qkv_same_embed_dim: bool

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.head_dim = attention.embed_dim, attention.num_heads, attention.head_dim
        self.dropout, self.batch_first = attention.dropout, attention.batch_first
        self.in_proj_bias = None
        self._qkv_same_embed_dim = False
        if attention.in_proj_weight is not None:
            weights = attention.in_proj_weight.detach().chunk(3)
        else:
            weights = tuple(
                cast(Tensor, getattr(attention, f"{name}_proj_weight")).detach() for name in ("q", "k", "v")
            )
        packed = attention.in_proj_weight if attention.in_proj_weight is not None else attention.q_proj_weight
        biases = (None,) * 3 if attention.in_proj_bias is None else attention.in_proj_bias.detach().chunk(3)
        for name, weight, bias in zip(("q_proj", "k_proj", "v_proj"), weights, biases, strict=True):
            self.register_module(name, _linear(weight, bias, packed, attention.in_proj_bias))
        state = read_weight(attention.out_proj)
        out = attention.out_proj
        latent = next(parameter for name, parameter in out.named_parameters() if name != "bias")
        self.out_proj = _linear(state.weight, None if out.bias is None else out.bias.detach(), latent, out.bias)
        if state.grid is not None or state.keep is not None:
            write_weight(self.out_proj, state)
        self.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; masks are True, or −∞, at positions to ignore."""
        batched, first = query.dim() == 3, self.batch_first
        if not batched:
            query, key, value = (t.unsqueeze(0) for t in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        q, k, v = (
            layer(t).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for layer, t in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        mask = _merged_mask(q, k, attn_mask, key_padding_mask)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
            weights = torch.softmax(scores if mask is None else scores + mask, -1)
            mixed = F.dropout(weights, dropout) @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if first else output.transpose(0, 1), weights


def split_attention(model: nn.Module, governed: Callable[[str], bool]) -> tuple[nn.Module, list[str]]:
    """Replace each `nn.MultiheadAttention` at a governed path by `SplitAttention`, in place.

    Returns:
        The model, and the paths of skipped attention modules: subclasses, shared or tied weights, added keys.
    """
    left = []
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for path, module in list(model.named_modules()):
        if not isinstance(module, nn.MultiheadAttention) or not governed(path):
            continue
        tied = any(owners[id(parameter)] > 1 for parameter in module.parameters(recurse=False))
        if type(module) is not nn.MultiheadAttention or module.bias_k is not None or module.add_zero_attn or tied:
            left.append(path)
            continue
        model = replace_module(model, module, SplitAttention(module))
    leave_fast_path(model)
    return model, left


def leave_fast_path(model: nn.Module) -> None:
    """Disable the fused path of transformer layers with replaced parts, since it reads the original weights."""
    for encoder in list(model.modules()):
        if isinstance(encoder, nn.TransformerEncoderLayer) and not (
            _is_plain(encoder.linear1)
            and _is_plain(encoder.linear2)
            and not isinstance(encoder.self_attn, SplitAttention)
        ):
            encoder.activation_relu_or_gelu = 0
    for encoder in model.modules():
        if isinstance(encoder, nn.TransformerEncoder) and any(
            isinstance(layer, nn.TransformerEncoderLayer) and not layer.activation_relu_or_gelu
            for layer in encoder.layers
        ):
            encoder.use_nested_tensor = False


def _is_plain(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) and not isinstance(layer, QuantizedLayer)


def _linear(weight: Tensor, bias: Tensor | None, like: Tensor, bias_like: Tensor | None) -> nn.Linear:
    """Return a layer with these values, trainable where their source is."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.clone(), requires_grad=like.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone(), requires_grad=bias_like is None or bias_like.requires_grad)
    return layer


def _merged_mask(q: Tensor, k: Tensor, attn_mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
    """Return one mask to add to the scores, of a shape that broadcasts to (batch, heads, queries, keys)."""
    parts: list[Any] = []
    if attn_mask is not None:
        mask = _additive(attn_mask, q.dtype)
        parts.append(mask.view(q.shape[0], -1, *mask.shape[1:]) if mask.dim() == 3 else mask)
    if padding is not None:
        parts.append(_additive(padding, q.dtype)[:, None, None, :])
    return sum(parts[1:], parts[0]) if parts else None


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))
