import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.cache import NotStorable, from_content, to_content
from kmr.core import KMRError, Rule
from kmr.data import Split
from kmr.finetune import FineTune
from kmr.representation.weights import Grid, WeightState, strip, weight_layers, write_weight

State = Callable[[nn.Module], list[Any]]


class Net(nn.Module):
    """Convolutions, normalisation, a shared module, a buffer that the state leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 8, 3, padding=1)
        self.again = nn.Linear(8, 8)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, 3)
        self.register_buffer("gain", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.norm(self.first(x))))).mean((2, 3))
        return self.head(self.drop(self.again(F.relu(self.again(x))))) * self.gain


def images() -> Split:
    generator = torch.Generator().manual_seed(1)
    return Split((torch.randn(24, 1, 6, 6, generator=generator), torch.arange(24) % 3), 8)


def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    return FineTune(data=images(), steps=2)(model).eval()  # type: ignore[return-value]


TUNE = FineTune(data=images(), steps=3, max_norm=0.1)


def masked(model: Any) -> nn.Module:
    for _, layer in weight_layers(model):
        write_weight(layer, WeightState(layer.weight.detach(), None, layer.weight.detach().abs() > 0.08))
    return model


def gridded(model: Any) -> nn.Module:
    for path, layer in weight_layers(model):
        if path != "head":
            scale = layer.weight.detach().abs().amax() / 7
            write_weight(layer, WeightState(layer.weight.detach(), Grid(scale, torch.tensor(8.0), 4)))
    return model


def both(model: Any) -> nn.Module:
    weight = model.again.weight.detach()
    scale = weight.abs().amax(1, keepdim=True) / 3
    write_weight(model.again, WeightState(weight, Grid(scale, torch.full((8, 1), 4.0), 3), weight > -0.2))
    return model


def narrower(model: Any) -> nn.Module:
    for name in ("weight", "bias"):
        setattr(model.first, name, nn.Parameter(getattr(model.first, name).detach()[::2]))
        setattr(model.norm, name, nn.Parameter(getattr(model.norm, name).detach()[::2]))
    model.norm.running_mean, model.norm.running_var = model.norm.running_mean[::2], model.norm.running_var[::2]
    model.second.weight = nn.Parameter(model.second.weight.detach()[:, ::2])
    model.first.out_channels = model.norm.num_features = model.second.in_channels = 3
    return model


def factored(model: Any) -> nn.Module:
    """Factors as singular values give them: column after column in memory."""
    left, singular, right = torch.linalg.svd(model.again.weight.detach(), full_matrices=False)
    pair = nn.Sequential(nn.Linear(8, 2, bias=False), nn.Linear(2, 8)).train(model.training)
    pair[0].weight = nn.Parameter(right[:2])
    pair[1].weight = nn.Parameter(left[:, :2] * singular[:2])
    pair[1].bias = model.again.bias
    model.again = pair
    return model


def stripped(model: Any) -> nn.Module:
    """Weights that were held and are plain again are registered after the biases."""
    masked(model)
    for _, layer in weight_layers(model):
        strip(layer)
    return model


def last_channels(model: Any) -> nn.Module:
    return model.to(memory_format=torch.channels_last)


def frozen(model: Any) -> nn.Module:
    model.first.weight.requires_grad_(False)
    model.norm.train()
    model.gain.fill_(float("nan"))
    return model


def tied(model: Any) -> nn.Module:
    model.drop = model.again
    return model


CHANGES = [masked, gridded, both, narrower, factored, stripped, last_channels, frozen, tied]


def recall(base: nn.Module, model: nn.Module) -> nn.Module:
    tensors, metadata = to_content(base, model)
    return from_content(base, (tensors, json.loads(json.dumps(metadata))))


def assert_goes_on_alike(live: nn.Module, recalled: nn.Module, whole_state: State) -> None:
    inputs = images().first_inputs(8)
    assert whole_state(recalled) == whole_state(live)
    with torch.no_grad():
        assert torch.equal(live(inputs), recalled(inputs)) or bool(live(inputs).isnan().all())
    assert [type(m).__name__ for m in live.modules()] == [type(m).__name__ for m in recalled.modules()]


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_comes_back_and_fine_tunes_on_to_the_last_bit(
    change: Callable[[Any], nn.Module], whole_state: State
) -> None:
    base = net()
    live = change(copy.deepcopy(base))
    recalled = recall(base, live)
    assert_goes_on_alike(live, recalled, whole_state)
    if change is not frozen:
        assert_goes_on_alike(TUNE(live), TUNE(recalled), whole_state)


def test_storing_changes_neither_the_model_nor_its_base(whole_state: State) -> None:
    base = net()
    live = both(narrower(copy.deepcopy(base)))
    before = whole_state(base), whole_state(live)
    recall(base, live)
    assert (whole_state(base), whole_state(live)) == before


def rules() -> dict[str, tuple[Rule, Any]]:
    pytest.importorskip("torch_pruning")
    from kmr.instantiations.lowrank import LowRank
    from kmr.instantiations.pruning import StructuredPruning, UnstructuredPruning
    from kmr.instantiations.quantization import WeightQuantization

    return {
        "prune": (UnstructuredPruning(), 0.6),
        "structured": (StructuredPruning(example_inputs=images().first_inputs()), 0.3),
        "quantize": (WeightQuantization(), 4),
        "lowrank": (LowRank(), 0.3),
    }


@pytest.mark.filterwarnings("ignore::kmr.core.RuleWarning")
@pytest.mark.parametrize(
    "order",
    [
        ("prune", "structured", "quantize", "lowrank"),
        ("lowrank", "quantize", "prune", "structured"),
        ("quantize", "lowrank", "structured", "prune"),
        ("structured", "prune", "lowrank", "quantize"),
    ],
)
def test_chains_of_rules_and_fine_tuning_go_on_from_a_recalled_model(
    order: tuple[str, ...], whole_state: State
) -> None:
    base = net()
    live: nn.Module = base
    recalled: nn.Module = base
    for name in order:
        rule, value = rules()[name]
        live = TUNE(rule(live, rule.knobs[0].name, value))
        recalled = TUNE(rule(recalled, rule.knobs[0].name, value))
        assert_goes_on_alike(live, recalled, whole_state)
        recalled = recall(base, recalled)
        assert_goes_on_alike(live, recalled, whole_state)


def test_a_recurrent_model_with_tied_weights_goes_on_alike(whole_state: State) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(12, 6)
            self.recurrent = nn.LSTM(6, 6, batch_first=True)
            self.head = nn.Linear(6, 12, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.recurrent(self.embed(tokens))[0][:, -1])

    torch.manual_seed(0)
    base = Tagger()
    data = Split((torch.randint(0, 12, (16, 4)), torch.randint(0, 12, (16,))), 8)
    tune = FineTune(data=data, steps=2)
    live = tune(copy.deepcopy(base))
    recalled = recall(base, live)
    assert whole_state(recalled) == whole_state(live)
    assert recalled.head.weight is recalled.embed.weight
    assert whole_state(tune(recalled)) == whole_state(tune(live))


def unsettled(model: Any) -> nn.Module:
    masked(model)
    model.again.parametrizations.weight.original.data += 1.0
    return model


def hooked(model: Any) -> nn.Module:
    model.head.register_forward_hook(lambda module, inputs, output: 2 * output)
    return model


class Foreign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


def foreign(model: Any) -> nn.Module:
    model.drop = Foreign()
    return model


def sparse(model: Any) -> nn.Module:
    model.register_buffer("extra", torch.eye(3).to_sparse())
    return model


@pytest.mark.parametrize("change", [unsettled, hooked, foreign, sparse])
def test_a_model_that_would_not_come_back_is_refused(change: Callable[[Any], nn.Module]) -> None:
    base = net()
    with pytest.raises(NotStorable, match="cannot be cached"):
        to_content(base, change(copy.deepcopy(base)))


def test_content_of_another_base_is_refused() -> None:
    base = net()
    content = to_content(base, narrower(copy.deepcopy(base)))
    with pytest.raises(KMRError):
        from_content(nn.Linear(2, 2), content)
    with pytest.raises(KMRError):
        from_content(base, ({}, {}))
