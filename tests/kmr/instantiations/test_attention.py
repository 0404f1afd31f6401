from typing import Any

import pytest
import torch
from torch import nn

from kmr.instantiations.attention import SplitAttention, split_attention
from kmr.instantiations.quantization import DynamicQuantization, WeightQuantization
from kmr.representation.activations import quantized_layers
from kmr.representation.weights import read_weight, weight_layers


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("settings", [{}, {"kdim": 6, "vdim": 5}, {"bias": False}])
@pytest.mark.parametrize("need_weights", [True, False])
def test_computes_what_torch_does(batch_first: bool, settings: dict[str, Any], need_weights: bool) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first, **settings).eval()
    split = SplitAttention(attention)
    shape = (3, 4) if batch_first else (4, 3)
    query = torch.randn(*shape, 8)
    key, value = torch.randn(*shape, attention.kdim), torch.randn(*shape, attention.vdim)
    padding = torch.zeros(3, 4, dtype=torch.bool)
    padding[1, 2:] = True
    causal = torch.triu(torch.ones(4, 4, dtype=torch.bool), 1)
    for masks in ({}, {"key_padding_mask": padding}, {"attn_mask": causal},
                  {"attn_mask": torch.randn(6, 4, 4)}, {"attn_mask": causal, "key_padding_mask": padding}):  # fmt: skip
        expected = attention(query, key, value, need_weights=need_weights, **masks)
        found = split(query, key, value, need_weights=need_weights, **masks)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
        if need_weights:
            torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-6)


def encoder() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


def test_a_transformer_computes_the_same_on_every_path() -> None:
    model, x = encoder(), torch.randn(2, 5, 8)
    split, left = split_attention(encoder(), lambda path: path.startswith("layers.1"))
    assert left == []
    assert [isinstance(layer.self_attn, SplitAttention) for layer in split.layers] == [False, True]  # type: ignore[union-attr]
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(split(x), model(x), rtol=1e-5, atol=1e-5)


def test_all_projections_are_quantized_and_no_fused_path_goes_around_it() -> None:
    model, x = encoder(), torch.randn(2, 5, 8)
    moved = WeightQuantization()(model, "quantize.bits", 2)
    assert all(read_weight(layer).grid is not None for _, layer in weight_layers(moved))
    assert len(list(weight_layers(moved))) == 2 * 6
    dynamic = DynamicQuantization()(model, "dynamic.bits", 2)
    assert len(list(quantized_layers(dynamic))) == 12
    with torch.no_grad():
        quiet = dynamic(x)
    torch.testing.assert_close(quiet, dynamic(x).detach())
    only = DynamicQuantization(layers=("layers.*.linear1",), weight_bits=32)
    with torch.no_grad():
        assert not torch.allclose(only(model, "dynamic.bits@layers.*.linear1", 2)(x), model(x))


def test_attention_that_is_more_than_torchs_own_is_left() -> None:
    for attention in (nn.MultiheadAttention(4, 2, add_bias_kv=True), nn.MultiheadAttention(4, 2, add_zero_attn=True)):
        model = nn.ModuleDict({"a": attention, "b": nn.Linear(2, 2)})
        moved, left = split_attention(model, lambda _: True)
        assert left == ["a"]
        assert moved["a"] is attention  # type: ignore[index]
