"""Linear layers with transposed weights, as in GPT-2; a stand-in with the library's module name takes its place."""

import copy
import warnings

import pytest
import torch
from torch import nn

import kmr
from kmr.artifact.folder import Builder, save
from kmr.artifact.plain_checkpoint import plain
from kmr.core import RuleWarning
from kmr.core.transposed_linear import is_transposed_linear, plain_linears, transposed_again
from kmr.instantiations.lowrank import LowRank
from kmr.instantiations.pruning import StructuredPruning, UnstructuredPruning
from kmr.instantiations.quantization import DynamicQuantization, WeightQuantization
from kmr.meters import WeightBytes
from sweeps.experiment.layer_scan import probes

X = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))


class Conv1D(nn.Module):
    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf) / 4)
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x, self.weight)


Conv1D.__module__ = "transformers.pytorch_utils"


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Conv1D(32, 16), nn.ReLU(), Conv1D(8, 32)).eval()


def test_the_linear_layer_computes_the_same() -> None:
    model = net()
    made = plain_linears(copy.deepcopy(model))
    assert [type(layer) for layer in made] == [nn.Linear, nn.ReLU, nn.Linear]
    assert torch.allclose(made(X), model(X), atol=1e-5)
    assert torch.equal(made[0].weight, model[0].weight.t())
    alone = plain_linears(copy.deepcopy(model[0]))
    assert type(alone) is nn.Linear
    again = transposed_again(made, net())
    assert torch.equal(again(X), model(X))


def test_shared_layers_stay_one_and_those_with_hooks_or_a_shared_weight_stay() -> None:
    twice = nn.Sequential(layer := Conv1D(16, 16), layer)
    made = plain_linears(twice)
    assert made[0] is made[1]
    assert type(made[0]) is nn.Linear
    hooked = net()
    hooked[0].register_forward_hook(lambda *_: None)
    assert [is_transposed_linear(layer) for layer in plain_linears(hooked)] == [False, False, False]
    assert type(hooked[0]) is Conv1D
    tied = nn.Sequential(Conv1D(16, 16), Conv1D(16, 16))
    tied[1].weight = tied[0].weight
    assert plain_linears(tied)[1].weight is tied[0].weight


RULES = [
    (WeightQuantization(), 4, 0.5),
    (UnstructuredPruning(), 0.7, 0.7),
    (DynamicQuantization(), 8, 0.7),
    (LowRank(), 0.5, 0.8),
    (StructuredPruning(example_inputs=X), 0.5, 0.7),
]


@pytest.mark.parametrize(("rule", "value", "share"), RULES, ids=lambda part: getattr(part, "name", ""))
def test_rules_reach_these_layers_and_artifacts_load(tmp_path, rule, value, share) -> None:
    base = net()
    with warnings.catch_warnings(action="error", category=RuleWarning):
        model = rule(base, rule.knobs[0].name, value)
    assert WeightBytes()(model).value < share * WeightBytes()(base).value
    assert [type(layer) for layer in base] == [Conv1D, nn.ReLU, Conv1D]
    save(tmp_path / "a", model, base=base, builder=Builder("torch.nn.Sequential"))
    assert torch.equal(kmr.load(tmp_path / "a", base=net())(X), model(X))


@pytest.mark.parametrize("rule", [WeightQuantization(), StructuredPruning(example_inputs=X)])
def test_a_scan_finds_these_layers(rule) -> None:
    assert [probe.layer for probe in probes(rule, net())][:1] == ["0"]


def test_a_plain_checkpoint_of_gpt2_is_read_back(tmp_path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=1
    )
    base = transformers.GPT2LMHeadModel(config).eval()
    with warnings.catch_warnings(action="ignore", category=RuleWarning):  # tied weights stay
        model = WeightQuantization()(base, "quantize.bits", 4)
    plain(model).save_pretrained(tmp_path)
    back = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    words = torch.arange(8).reshape(2, 4)
    assert torch.allclose(back(words).logits, model(words).logits, atol=1e-5)
    assert not torch.allclose(base(words).logits, model(words).logits, atol=1e-3)
