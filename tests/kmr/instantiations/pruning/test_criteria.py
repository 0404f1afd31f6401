"""Each criterion against a closed form or Torch-Pruning's own."""

import math
from typing import Any

import pytest
import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.core import KMRError, NotApplicable
from kmr.data import Split, forward
from kmr.finetune import mean_squared_error
from kmr.instantiations.pruning import StructuredPruning
from kmr.instantiations.pruning.criteria import (
    L1,
    L2,
    Criterion,
    GeometricMedian,
    MeanActivation,
    NonZeros,
    NormScale,
    Random,
    Reconstruction,
    Taylor,
)
from kmr.instantiations.pruning.graph import Graph
from kmr.recovery import reconstruct, removal_costs


def linear(rows: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows))
    layer.weight.data, layer.bias.data = torch.tensor(rows), torch.tensor(bias)
    return layer


def two_layers() -> nn.Module:
    return nn.Sequential(linear([[1.0], [-2.0], [3.0]], [0.0] * 3), nn.ReLU(), linear([[1.0, 10.0, -0.5]], [0.0]))


def scores(criterion: Criterion, model: nn.Module, inputs: Any, data: Split | None = None) -> list[Tensor]:
    return criterion(model.eval(), Graph(model, inputs).groups, data)


@pytest.mark.parametrize(("criterion", "power"), [(L1(), 1), (L2(), 2)])
@pytest.mark.parametrize("name", ["vgg", "residual", "concat"])
def test_magnitude_is_that_of_torch_pruning(case: Any, criterion: Criterion, power: int, name: str) -> None:
    model, inputs = case(name)
    graph = torch_pruning.DependencyGraph().build_dependency(model, inputs)
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=power)
    expected = {}
    for group in graph.get_all_groups():
        expected[graph._module2name[group[0].dep.target.module]] = importance(group)
    groups = Graph(model, inputs).groups
    assert groups
    for group, score in zip(groups, criterion(model, groups), strict=True):
        torch.testing.assert_close(score.float(), expected[group.root].float(), rtol=1e-4, atol=1e-5)


def test_magnitude_by_hand() -> None:
    assert scores(L1(relative=False), two_layers(), torch.ones(1, 1))[0].tolist() == [1.0, 6.0, 1.75]
    assert scores(L2(relative=False), two_layers(), torch.ones(1, 1))[0].tolist() == [1.0, 52.0, 4.625]
    assert float(scores(L2(), two_layers(), torch.ones(1, 1))[0].mean()) == pytest.approx(1)


def test_norm_scale_reads_the_normalisation_and_nothing_else(case: Any) -> None:
    model, inputs = case("vgg")
    model[1].weight.data[0] = -3.0
    graph = Graph(model, inputs)
    found = dict(zip([g.root for g in graph.groups], NormScale(relative=False)(model, graph.groups), strict=True))
    torch.testing.assert_close(found["0"], model[1].weight.detach().abs().double())
    assert len(found["8"]) == 0  # a linear layer without normalisation cannot be ranked


def test_the_geometric_median_finds_the_replaceable_filter() -> None:
    rows = [[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]
    model = nn.Sequential(linear(rows, [0.0] * 3), linear([[1.0] * 3], [0.0]))
    assert scores(GeometricMedian(relative=False), model, torch.ones(1, 2))[0].tolist() == [15.0, 10.0, 15.0]


def test_random_follows_the_generator() -> None:
    def draw(seed: int) -> list[float]:
        torch.manual_seed(seed)
        drawn: list[float] = scores(Random(), two_layers(), torch.ones(1, 1))[0].tolist()
        return drawn

    assert draw(0) == draw(0) != draw(1)


def test_taylor_is_the_squared_change_of_the_loss_to_first_order() -> None:
    # y = 1·relu(x) + 10·relu(-2x) - 0.5·relu(3x); at x = 2: activations 2, 0, 6, y = -1; loss (y - t)² with t = 0.
    data = Split((torch.tensor([[2.0], [-1.0]]), torch.zeros(2)), 1)
    found = scores(Taylor(loss=mean_squared_error), two_layers(), torch.ones(1, 1), data)[0]
    # dL/dy = 2y: -2 at x = 2; at x = -1 activations 0, 2, 0, y = 20, dL/dy = 40; contributions of channels: w·z.
    first, second = [-2 * 2.0, 0.0, -2 * -3.0], [0.0, 40 * 20.0, 0.0]
    assert found.tolist() == pytest.approx([(a * a + b * b) / 2 for a, b in zip(first, second, strict=True)])


def test_taylor_of_a_linear_loss_is_the_change_itself(case: Any) -> None:
    """With a loss linear in the output of the last layer, the first order is all there is: silence and compare."""
    model, inputs = case("vgg")

    def total(outputs: Tensor, _: Tensor) -> Tensor:
        return outputs.sum()

    graph = Graph(model, inputs)
    data = Split((inputs, torch.zeros(len(inputs))), 64)
    found = dict(zip([g.root for g in graph.groups], Taylor(loss=total)(model, graph.groups, data), strict=True))["8"]
    full = float(forward(model, inputs).detach().sum())
    for channel in range(3):
        weight = model[10].weight.data.clone()
        model[10].weight.data[:, channel] = 0
        change = float(forward(model, inputs).detach().sum()) - full
        model[10].weight.data = weight
        assert math.sqrt(float(found[channel])) == pytest.approx(abs(change), rel=1e-3, abs=1e-4)


def test_activations_are_read_where_they_are_used() -> None:
    data = Split((torch.tensor([[2.0], [-1.0], [1.0], [0.5]]), torch.zeros(4)), 3)
    found = scores(NonZeros(relative=False), two_layers(), torch.ones(1, 1), data)[0]
    assert found.tolist() == [0.75, 0.25, 0.75]
    found = scores(MeanActivation(relative=False), two_layers(), torch.ones(1, 1), data)[0]
    assert found.tolist() == pytest.approx([3.5 / 4, 2 / 4, 3 * 3.5 / 4])


def test_a_flattened_map_is_averaged_over_its_places(case: Any) -> None:
    model, inputs = case("vgg")
    graph = Graph(model, inputs)
    data = Split((inputs, torch.zeros(len(inputs))), 2)
    criterion = MeanActivation(relative=False)
    found = dict(zip([g.root for g in graph.groups], criterion(model, graph.groups, data), strict=True))
    expected = model[:7](inputs).abs().mean((0, 2, 3))
    torch.testing.assert_close(found["4"].float(), expected.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("criterion", [Taylor(), NonZeros(), MeanActivation()])
def test_what_reads_data_asks_for_it_and_leaves_the_model_alone(case: Any, criterion: Criterion) -> None:
    model, inputs = case("vgg")
    groups = Graph(model, inputs).groups
    with pytest.raises(KMRError, match="give the rule `data`"):
        criterion(model, groups)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = Split((inputs, torch.arange(len(inputs)) % 5), 2)
    first, second = criterion(model, groups, data), criterion(model, groups, data)
    assert all(map(torch.equal, first, second))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())


def test_scores_that_are_not_finite_are_refused() -> None:
    model = two_layers()
    model[0].weight.data[0] = math.nan  # type: ignore[index, union-attr]
    with pytest.raises(NotApplicable, match="no finite score"):
        scores(L2(), model, torch.ones(1, 1))


def test_the_loss_of_taylor_is_that_of_the_task_unless_told() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)), torch.randn(30, 2)
    classes, numbers = Split((x, torch.arange(30) % 3), 10), Split((x, torch.randn(30, 3)), 10)
    for data, loss in ((classes, F.cross_entropy), (numbers, F.mse_loss)):
        torch.testing.assert_close(scores(Taylor(), model, x, data), scores(Taylor(loss=loss), model, x, data))


def test_reconstruction_is_what_the_readers_lose_refitted_for_the_work_saved() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4)).eval()
    x = torch.randn(300, 3)
    with torch.no_grad():
        hidden = F.relu(model[0](x)).double()
    weight = model[2].weight.detach().double()
    centred = hidden - hidden.mean(0)
    spread = (centred @ weight.T).var(0, unbiased=False).mean()
    expected = removal_costs(weight, centred.T @ centred / 300, 5) / spread
    data = Split((x, torch.zeros(300)), 100)
    (found,) = scores(Reconstruction(power=0.0), model, x[:1], data)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    (found,) = scores(Reconstruction(power=1.0), model, x[:1], data)
    torch.testing.assert_close(found, expected / (3 + 4), rtol=1e-4, atol=1e-6)


def test_reconstruction_sees_a_reader_through_its_normalisation(case: Any) -> None:
    model, inputs = case("vgg")
    data = Split((torch.randn(32, 3, 8, 8), torch.zeros(32)), 16)
    groups = Graph(model, inputs).groups
    before = dict(zip([g.root for g in groups], Reconstruction()(model, groups, data), strict=True))
    model[5].weight.data *= 3  # of the convolution that reads the channels of the first
    after = dict(zip([g.root for g in groups], Reconstruction()(model, groups, data), strict=True))
    torch.testing.assert_close(after["0"], 9 * before["0"])
    assert len(before["4"]) == 12
    with pytest.raises(KMRError, match="at least 0"):
        Reconstruction(power=-1.0)


def test_channels_cut_by_reconstruction_are_those_it_can_do_without() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4)).eval()
    with torch.no_grad():
        for twin in range(6):
            model[0].weight[6 + twin], model[0].bias[6 + twin] = 2 * model[0].weight[twin], 2 * model[0].bias[twin]
    x = torch.randn(400, 6)
    data = Split((x, torch.zeros(400)), 200)
    rule = StructuredPruning(example_inputs=x[:2], criterion=Reconstruction(), data=data)
    smaller = rule(model, "structured.ratio", 0.5)
    reconstruct(smaller, model, [x], ridge=0.0)
    with torch.no_grad():
        torch.testing.assert_close(smaller(x), model(x), atol=1e-3, rtol=1e-3)
