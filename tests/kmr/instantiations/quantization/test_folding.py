import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.quantization import StaticQuantization, WeightQuantization
from kmr.instantiations.quantization.calibration import uses
from kmr.instantiations.quantization.equalization import equalize, pairs_to_equalize
from kmr.instantiations.quantization.folding import fold_norms, pairs_to_fold
from kmr.representation.weights import read_weight


def normed(layer: Any, norm: Any) -> nn.Module:
    torch.manual_seed(1)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return nn.Sequential(layer, norm).eval()


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Linear(4, 6), nn.BatchNorm1d(6), (3, 4)),
        (nn.Conv1d(4, 6, 3, bias=False), nn.BatchNorm1d(6), (3, 4, 7)),
        (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (3, 4, 7, 7)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (3, 4, 5, 5)),
        (nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6), (3, 4, 5)),
    ],
)
def test_a_folded_pair_computes_the_same(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    model, x = normed(layer, norm), torch.randn(shape)
    expected = model(x)
    folded: Any = fold_norms(copy.deepcopy(model), x)
    assert isinstance(folded[1], nn.Identity)
    torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-5)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(2, 2, 1) for _ in range(3))
        self.na, self.nb, self.nc = (nn.BatchNorm2d(2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(F.relu(a))
        # a is read twice, b through a function, nc by two layers.
        return self.na(a) + a + self.nb(b * 2) + self.nc(self.c(x)) + self.nc(self.c(x))


def test_only_a_norm_that_alone_reads_a_layer_is_folded() -> None:
    model, x = Branches().eval(), torch.randn(2, 2, 3, 3)
    assert pairs_to_fold(model, x) == []
    found = uses(model, x)
    assert sorted(found["a"]) == ["__add__", "na", "relu"] or sorted(found["a"]) == ["add", "na", "relu"]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_masks_stay_and_weights_on_grids_are_not_folded() -> None:
    torch.manual_seed(0)
    model = normed(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8))
    x = torch.randn(2, 2, 5, 5)
    pruned = UnstructuredPruning()(model, "prune.sparsity", 0.5)
    keep = read_weight(pruned[0]).keep  # type: ignore[index]
    expected = pruned(x)
    folded: Any = fold_norms(pruned, x)
    assert torch.equal(read_weight(folded[0]).keep, keep)  # type: ignore[arg-type]
    torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-5)
    assert pairs_to_fold(WeightQuantization()(model, "quantize.bits", 4), x) == []


def test_equalized_layers_have_equal_ranges_and_the_model_computes_the_same() -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 4, 3)
            self.three = nn.Conv2d(4, 4, 1)
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.three(torch.sigmoid(self.two(self.act(self.one(x)))))

    model, x = Net().eval(), torch.randn(2, 2, 8, 8)
    with torch.no_grad():
        model.one.weight *= torch.logspace(-2, 1, 6).view(-1, 1, 1, 1)
    expected = model(x)
    # A sigmoid is not homogeneous: only the pair around the ReLU.
    assert pairs_to_equalize(model, x) == [("one", "two")]
    equalize(model, x)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    of_one = model.one.weight.detach().flatten(1).abs().amax(1)
    of_two = model.two.weight.detach().transpose(0, 1).flatten(1).abs().amax(1)
    torch.testing.assert_close(of_one, of_two, rtol=1e-4, atol=1e-6)
    gaps = []
    for equal in (False, True):
        with torch.no_grad():
            start = Net().eval()
            start.load_state_dict(model.state_dict())
            start.one.weight *= torch.logspace(-2, 1, 6).view(-1, 1, 1, 1)
            start.two.weight /= torch.logspace(-2, 1, 6).view(1, -1, 1, 1)
            reference = start(x)
            if equal:
                equalize(start, x)
            moved = WeightQuantization(granularity="tensor")(start, "quantize.bits", 6)
            gaps.append(float((moved(x) - reference).square().mean()))
    assert gaps[1] < 0.5 * gaps[0]


def test_static_quantization_can_equalize() -> None:
    from kmr.data import Split

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        model[0].weight *= torch.logspace(-1, 1, 6).view(-1, 1)  # type: ignore[operator]
    data = Split((torch.randn(32, 4), torch.zeros(32).long()), 16)
    moved = StaticQuantization(data=data, equalize=True)(model, "static.bits", 8)
    with torch.no_grad():
        torch.testing.assert_close(moved(data.source[0]), model(data.source[0]), rtol=0.05, atol=0.05)
    assert not torch.equal(moved[0].bias, model[0].bias)  # type: ignore[index, arg-type, union-attr]
