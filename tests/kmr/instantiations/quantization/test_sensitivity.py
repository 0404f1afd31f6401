import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kmr.core import KMRError, NotApplicable
from kmr.data import Split
from kmr.instantiations.quantization import (
    WeightQuantization,
    as_vector,
    measure_sensitivity,
    per_layer,
)
from kmr.meters import WeightBytes


def setting() -> tuple[nn.Module, Split]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 5)).eval()
    inputs = torch.randn(60, 12)
    # Targets drawn from the model itself: the empirical Fisher is then near the Hessian of the divergence.
    with torch.no_grad():
        targets = torch.distributions.Categorical(logits=model(inputs)).sample()
    return model, Split((inputs, targets), 20)


def test_kl_by_hand_and_its_bytes() -> None:
    model, data = setting()
    table = measure_sensitivity(model, data, widths=(8, 3), samples=60)
    assert table.layers == ("0", "2", "4")
    moved = WeightQuantization(layers=("2",))(model, "quantize.bits@2", 3)
    with torch.no_grad():
        p, q = (F.softmax(m(data.source[0]).double(), 1) for m in (model, moved))
    assert table.losses[1][1] == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-6)
    saved = table.bytes[1][0] - table.bytes[1][1]
    assert abs(saved - 40 * 24 * 5 / 8) <= 16


def test_taylor_agrees_with_kl_where_the_change_is_small() -> None:
    model, data = setting()
    kl = measure_sensitivity(model, data, widths=(6, 4), samples=60)
    taylor = measure_sensitivity(model, data, widths=(6, 4), samples=60, kind="taylor")
    for one, other in zip(kl.losses, taylor.losses, strict=True):
        for exact, estimate in zip(one, other, strict=True):
            assert estimate == pytest.approx(exact, rel=0.9)


def test_bits_at_a_byte_budget_fit_and_become_a_vector() -> None:
    model, data = setting()
    table = measure_sensitivity(model, data)
    limit = WeightBytes()(WeightQuantization()(model, "quantize.bits", 4)).value
    bits, found = table.for_bytes(limit)
    vector = as_vector(WeightQuantization(), bits)
    assert vector == {f"quantize.bits@{path}": width for path, width in bits.items()}
    rule = per_layer(WeightQuantization(), tuple(bits))
    moved = model
    for knob, width in vector.items():
        moved = rule(moved, knob, width)
    assert WeightBytes()(moved).value <= limit + 64
    assert found.loss <= sum(row[table.widths.index(4)] for row in table.losses)
    with pytest.raises(NotApplicable, match="budget"):
        table.for_bytes(10)


def test_the_projections_of_attention_are_layers_too() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 3)).eval()
    data = Split((torch.randn(6, 3, 8), torch.zeros(6).long()), 6)
    table = measure_sensitivity(model, data, widths=(8, 2), samples=6)
    assert "0.self_attn.q_proj" in table.layers
    bits, _ = table.for_bytes(1e9)
    rule = per_layer(WeightQuantization(), tuple(bits))
    moved = rule(model, "quantize.bits@0.self_attn.q_proj", 2)
    assert moved.get_submodule("0.self_attn.q_proj").parametrizations is not None
    assert not hasattr(moved.get_submodule("0.self_attn.k_proj"), "parametrizations")


def test_other_kinds_are_refused() -> None:
    model, data = setting()
    with pytest.raises(KMRError, match="kl or taylor"):
        measure_sensitivity(model, data, kind="hessian")  # type: ignore[arg-type]
