import pytest
import torch
from torch import nn

from kmr.core import Instantiation, KMRError, Move, NotApplicable, RuleWarning, TransformationSequence, run_sequence
from kmr.data import Split
from kmr.instantiations.dynamic import ChannelGating
from kmr.instantiations.dynamic.gating import fitted_gate
from kmr.meters import Accuracy, ExpectedMACs
from kmr.representation.gating import GatedLayer

X = (
    torch.randn(64, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    * torch.linspace(0.1, 3, 64)[:, None, None, None]
)
DATA = Split((X, torch.arange(64) % 3), 16)


def cnn() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    ).eval()


def closed_share(model: nn.Module, path: str, inputs: torch.Tensor) -> torch.Tensor:
    found = []
    handle = model.get_submodule(path).gate.register_forward_hook(lambda _, __, out: found.append(out))
    with torch.no_grad():
        model(inputs)
    handle.remove()
    return 1 - found[0].double().mean(1)


@pytest.mark.parametrize("closed", [0.25, 0.5, 0.8])
def test_the_share_that_is_closed_on_the_samples_is_the_value_and_differs_between_them(closed: float) -> None:
    gated = ChannelGating(data=DATA, samples=64)(cnn(), "gate.closed", closed)
    for path in ("0", "2"):
        shares = closed_share(gated, path, X)
        # Samples whose inputs are all closed are alike, and closed together.
        assert float(shares.mean()) == pytest.approx(closed, abs=0.01 if path == "0" else 0.05)
        assert float(shares.std()) > 0.05


def test_gates_of_a_deep_model_close_their_share_each() -> None:
    torch.manual_seed(0)
    wide = [nn.Conv2d(2 if first else 16, 16, 3, padding=1) for first in (True, *[False] * 5)]
    deep = nn.Sequential(*[part for layer in wide for part in (layer, nn.ReLU())])
    gated = ChannelGating(data=DATA, samples=64)(deep, "gate.closed", 0.25)
    shares = [float(closed_share(gated, str(place), X).mean()) for place in range(0, 12, 2)]
    assert shares == pytest.approx([0.25] * 6, abs=0.02)


def test_a_gate_closes_what_strays_least_and_fills_in_the_mean_of_those() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand(200, 1, 4, generator=generator)
    # Channel 0 follows the input's size, channel 1 is constant.
    sign = torch.where(torch.rand(200, 1, generator=generator) < 0.5, -1.0, 1.0)
    outputs = torch.stack([sign * inputs.mean(2), torch.full((200, 1), 5.0)], 1)
    gate, fill = fitted_gate(inputs, outputs, 0.5, 1e-6)
    is_open = gate(inputs)
    assert not bool(is_open[:, 1].any())
    assert bool(is_open[:, 0].all())
    assert float(fill[1]) == pytest.approx(5.0)


def test_the_least_damage_is_done_with_few_closed_and_neutral_is_none() -> None:
    model = cnn()
    errors = []
    for closed in (0.1, 0.4, 0.8):
        gated = ChannelGating(data=DATA, samples=64)(model, "gate.closed", closed)
        with torch.no_grad():
            errors.append(float((gated(X) - model(X)).square().mean()))
    assert errors == sorted(errors)
    assert not any(isinstance(m, GatedLayer) for m in ChannelGating()(model, "gate.closed", 0.0).modules())


def test_gating_again_starts_from_the_layer() -> None:
    rule = ChannelGating(data=DATA, samples=64)
    once = rule(cnn(), "gate.closed", 0.5)
    again = rule(rule(cnn(), "gate.closed", 0.3), "gate.closed", 0.5)
    assert sum(isinstance(m, GatedLayer) for m in again.modules()) == 2
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), again.state_dict().values(), strict=True))


def test_gates_hold_through_training_of_what_they_gate() -> None:
    gated = ChannelGating(data=DATA, samples=64)(cnn(), "gate.closed", 0.5).train()
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.01)
    before = gated[0].gate.slope.clone(), gated[0].layer.weight.detach().clone()
    gated(X).square().mean().backward()
    optimizer.step()
    assert torch.equal(gated[0].gate.slope, before[0])
    assert not torch.equal(gated[0].layer.weight, before[1])


def test_as_an_instantiation_its_cost_falls_with_what_is_closed() -> None:
    rule = ChannelGating(data=DATA, samples=64)
    cost = ExpectedMACs(data=DATA, example_inputs=X[:1])
    technique = Instantiation("dynamic", (rule,), (cost,), (Accuracy(data=DATA),))
    costs = []
    for closed in (0.2, 0.6):
        run = run_sequence(cnn(), technique, TransformationSequence((Move("gate.closed", closed),)))
        costs.append([step.costs["expected_macs"].value for step in run.trace])
    assert costs[0][0] == costs[1][0]
    assert costs[1][1] < costs[0][1] < costs[0][0]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(2, 2, 3, padding=1)
        self.once = nn.Conv2d(2, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.once(self.again(self.again(x))).mean((2, 3))
        return found


def test_what_cannot_be_gated_is_said() -> None:
    with pytest.warns(RuleWarning, match="gate: again: left as they are: they do not run exactly once"):
        gated = ChannelGating(data=DATA, samples=8)(Twice(), "gate.closed", 0.5)
    assert isinstance(gated.once, GatedLayer)
    flat = Split((torch.randn(4, 3), torch.zeros(4)), 4)
    with pytest.raises(NotApplicable, match="no convolution to gate"):
        ChannelGating(data=flat)(nn.Linear(3, 2), "gate.closed", 0.5)
    with pytest.raises(KMRError, match="needs calibration data"):
        ChannelGating()(cnn(), "gate.closed", 0.5)
    with pytest.raises(KMRError, match="samples >= 2"):
        ChannelGating(samples=1)
