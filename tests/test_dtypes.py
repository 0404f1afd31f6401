"""What every rule of `conf/` owes a model of another dtype than float32: weights keep theirs, also in a file."""

from pathlib import Path

import pytest
import torch
from contracts import IMAGES, MODELS, RULES, cnn, output, rule, same, state, turned
from torch import nn

import kmr
from kmr.artifact.folder import Builder
from kmr.artifact.packing import pack
from kmr.core import NotApplicable, RuleWarning
from kmr.data import Split
from kmr.instantiations.quantization import StaticQuantization, WeightQuantization
from kmr.meters import WeightBytes
from kmr.representation.rounding import to_codes
from kmr.representation.weights import read_weight, weight_layers
from kmr.testing import check_rule

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
VALUES = {"exits": 0.3, "geta": 0.12, "recover": "reconstruct"}
"""What to turn to where the middle of the ladder does nothing or takes long."""


def dtypes(model: nn.Module) -> set[torch.dtype]:
    """Return the types of all numbers of a model that are not whole."""
    return {t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()}


@pytest.mark.parametrize(
    ("kind", "dtype"), [("cnn", "bf16"), ("transformer", "bf16"), ("cnn", "fp16"), ("cnn", "fp64")]
)
@pytest.mark.parametrize("name", RULES)
def test_each_weight_keeps_its_dtype_through_a_rule_and_a_file(
    name: str, kind: str, dtype: str, tmp_path: Path
) -> None:
    base, made = MODELS[kind]().to(DTYPES[dtype]), rule(name, kind)
    if (name, kind) == ("gate", "transformer"):
        with pytest.raises(NotApplicable, match="no convolution"):
            turned(made, base)
        return
    moved = turned(made, base, VALUES.get(name))
    assert dtypes(moved) == {DTYPES[dtype]}
    assert output(moved).dtype == DTYPES[dtype]
    kmr.save(tmp_path / "model", moved, base=base, builder=Builder("torch.nn.Module"))
    loaded = kmr.load(tmp_path / "model", base=base)
    assert same(state(moved), state(loaded))
    assert dtypes(loaded) == {DTYPES[dtype]}
    assert torch.equal(output(moved.eval()), output(loaded))
    plain = [tensor for name, tensor in pack(moved).tensors.items() if name not in pack(moved).manifest["weights"]]
    assert {tensor.dtype for tensor in plain if tensor.is_floating_point()} <= {DTYPES[dtype]}


@pytest.mark.parametrize("name", ["quantize", "lowrank", "structured", "static", "distil", "share"])
def test_a_rule_keeps_its_contract_in_bfloat16(name: str) -> None:
    check_rule(rule(name), cnn().bfloat16(), IMAGES)


def test_bytes_are_those_of_the_dtype() -> None:
    for dtype, size in ((torch.bfloat16, 2), (torch.float16, 2), (torch.float32, 4), (torch.float64, 8)):
        model = nn.Linear(1000, 10, bias=False, dtype=dtype)
        header = WeightBytes()(model).value - size * 10_000
        assert 0 < header < 200


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"group": 8}, {"rounding": "gptq"}, {"bias_correction": True}, {"learned": True}, {"scheme": "kmr"}],
)
def test_sixteen_bits_are_the_identity_on_a_weight_of_sixteen(
    settings: dict[str, object], kind: str, dtype: torch.dtype
) -> None:
    model = MODELS[kind]().to(dtype)
    made = WeightQuantization(data=Split((IMAGES, torch.arange(24) % 4), 8), **settings)  # type: ignore[arg-type]
    with pytest.warns(RuleWarning, match="already in 16 bits or fewer"):
        moved = made(model, "quantize.bits", 16)
    assert same(state(model), state(moved))
    assert [type(m) for m in model.modules()] == [type(m) for m in moved.modules()]
    assert WeightBytes()(moved).value == WeightBytes()(model).value
    assert torch.equal(output(moved), output(model))


def test_weights_of_sixteen_bits_beside_quantized_activations_stay() -> None:
    model = cnn().bfloat16()
    made = StaticQuantization(data=Split((IMAGES, torch.arange(24) % 4), 8), weight_bits=16, fold=False)
    with pytest.warns(RuleWarning, match="already in 16 bits or fewer"):
        moved = made(model, "static.bits", 8)
    for path, layer in weight_layers(moved):
        assert read_weight(layer).grid is None
        assert torch.equal(read_weight(layer).weight, dict(weight_layers(model))[path].weight)


def test_a_model_of_two_dtypes_is_quantized_where_it_has_more_bits() -> None:
    model = nn.Sequential(nn.Linear(8, 8, dtype=torch.bfloat16), nn.Linear(8, 8))
    with pytest.warns(RuleWarning, match="quantize: 0: left as they are: already in 16 bits or fewer"):
        moved = WeightQuantization()(model, "quantize.bits", 16)
    assert [read_weight(layer).grid is None for _, layer in weight_layers(moved)] == [True, False]
    assert [layer.weight.dtype for _, layer in weight_layers(moved)] == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("bits", [8, 12])
def test_codes_of_bfloat16_are_exact(bits: int) -> None:
    """bfloat16 counts to 256 only; more codes than that must not be lost."""
    x = torch.linspace(-1, 1, 4096).bfloat16()
    scale = torch.tensor(2.0 / (2**bits - 1)).bfloat16()
    zero = torch.tensor(2.0 ** (bits - 1))
    exact = torch.round(x.double() / scale.double() + zero).clamp(0, 2**bits - 1)
    assert torch.equal(to_codes(x, scale, zero.bfloat16(), bits).double(), exact)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_error_in_bfloat16_is_that_in_float32(bits: int) -> None:
    narrow = nn.Linear(256, 64, dtype=torch.bfloat16)
    wide = nn.Linear(256, 64)
    wide.load_state_dict(narrow.state_dict())
    true = wide.weight.detach()

    def error(model: nn.Module) -> float:
        moved = WeightQuantization()(model, "quantize.bits", bits)
        return float((moved.weight.detach().float() - true).square().mean().sqrt())

    one, other = error(narrow), error(wide)
    assert one == pytest.approx((other**2 + (2**-9 / 3**0.5 * float(true.abs().max())) ** 2) ** 0.5, rel=0.15)
