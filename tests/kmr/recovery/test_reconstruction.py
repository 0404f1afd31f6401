import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kmr.core import KMRError, NotApplicable
from kmr.instantiations.lowrank import LowRank
from kmr.instantiations.pruning import StructuredPruning, UnstructuredPruning
from kmr.instantiations.quantization import WeightQuantization
from kmr.recovery import recalibrate, reconstruct
from kmr.representation.weights import read_weight, weight_layers

X = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def mlp() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4)).eval()


def without(model: nn.Sequential, neuron: int) -> nn.Sequential:
    kept = [i for i in range(10) if i != neuron]
    smaller = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4)).eval()
    smaller[0].weight.data, smaller[0].bias.data = model[0].weight[kept].detach(), model[0].bias[kept].detach()
    smaller[2].weight.data, smaller[2].bias.data = model[2].weight[:, kept].detach(), model[2].bias.detach().clone()
    return smaller


def output(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(inputs)
        return found


def loss(model: nn.Module, original: nn.Module, inputs: Tensor) -> float:
    return float((output(model, inputs) - output(original, inputs)).square().mean())


def test_what_others_can_say_is_taken_over_in_full() -> None:
    model = mlp()
    with torch.no_grad():
        model[0].weight[3], model[0].bias[3] = 2 * model[0].weight[7], 2 * model[0].bias[7]
    smaller = without(model, 3)
    done = reconstruct(smaller, model, [X[:120], X[120:]], ridge=0.0)
    assert done.fitted == ("0", "2")
    torch.testing.assert_close(output(smaller, X), output(model, X), atol=1e-4, rtol=1e-4)
    # Neuron 3 is twice neuron 7, which moves to place 6: it takes over twice the weights of 3.
    expected = (model[2].weight[:, 7] + 2 * model[2].weight[:, 3]).detach()
    torch.testing.assert_close(smaller[2].weight[:, 6].detach(), expected, atol=1e-3, rtol=1e-3)


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.long = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.rest = nn.Linear(6, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.long(x))
        out += self.rest(x)
        return out


def test_a_branch_makes_up_for_what_its_shortcut_lost() -> None:
    torch.manual_seed(0)
    model = Sum().eval()
    smaller = copy.deepcopy(model)
    smaller.rest = nn.Identity()
    done = reconstruct(smaller, model, [X], ridge=0.0)
    assert done.fitted == ("long",)
    torch.testing.assert_close(output(smaller, X), output(model, X), atol=1e-4, rtol=1e-4)


def test_masks_hold_and_the_error_falls() -> None:
    model = mlp()
    pruned = UnstructuredPruning()(model, "prune.sparsity", 0.6)
    masks = {path: read_weight(layer).keep for path, layer in weight_layers(pruned)}
    fitted = copy.deepcopy(pruned)
    reconstruct(fitted, model, [X])
    assert loss(fitted, model, X) < 0.7 * loss(pruned, model, X)
    for path, layer in weight_layers(fitted):
        state, keep = read_weight(layer), masks[path]
        assert (state.keep is None) == (keep is None)
        assert keep is None or bool((state.weight[~keep] == 0).all())


def cnn() -> nn.Sequential:
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, bias=False),
        nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 5),
    )  # fmt: skip
    with torch.no_grad():
        model.train()(IMAGES)
    return recalibrate(model.eval(), [IMAGES])  # type: ignore[return-value]


def test_after_surgery_it_beats_new_statistics_which_beat_nothing() -> None:
    model = cnn()
    cut = StructuredPruning(example_inputs=IMAGES[:2])(model, "structured.ratio", 0.5)
    statistics = recalibrate(copy.deepcopy(cut), [IMAGES])
    fitted = copy.deepcopy(cut)
    done = reconstruct(fitted, model, [IMAGES])
    assert done.left == {}
    assert loss(fitted, model, IMAGES) < loss(statistics, model, IMAGES) < loss(cut, model, IMAGES)
    shapes = [p.shape for p in cut.parameters()]
    assert [p.shape for p in fitted.parameters()] == shapes


def test_it_finds_the_channels_after_training_too() -> None:
    model = cnn()
    cut = StructuredPruning(example_inputs=IMAGES[:2])(model, "structured.ratio", 0.4)
    known, found = copy.deepcopy(cut), copy.deepcopy(cut)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter *= 1 + 1e-3
    reconstruct(known, model, [IMAGES], ridge=0.0)
    reconstruct(found, model, [IMAGES], ridge=0.0)
    torch.testing.assert_close(output(found, IMAGES), output(known, IMAGES), atol=2e-2, rtol=2e-2)


def test_channels_can_be_named() -> None:
    model = mlp()
    smaller = without(model, 3)
    kept = torch.tensor([0, 1, 2, 4, 5, 6, 7, 8, 9])
    one, other = copy.deepcopy(smaller), copy.deepcopy(smaller)
    reconstruct(one, model, [X])
    reconstruct(other, model, [X], kept={"0": kept})
    assert torch.equal(one[2].weight, other[2].weight)


def test_the_second_of_two_factors_is_fitted() -> None:
    model = cnn()
    factors = LowRank()(model, "lowrank.keep", 0.4)
    fitted = copy.deepcopy(factors)
    done = reconstruct(fitted, model, [IMAGES])
    assert "8.second" in done.fitted
    assert "8.first" not in done.fitted
    assert loss(fitted, model, IMAGES) < loss(factors, model, IMAGES)


def test_modes_flags_and_the_original_stay() -> None:
    model = cnn().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    smaller = UnstructuredPruning()(model, "prune.sparsity", 0.5)
    smaller[3].parametrizations.weight.original.requires_grad_(False)
    state = torch.get_rng_state()
    reconstruct(smaller, model, [IMAGES])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert smaller.training
    assert model.training
    assert not smaller[3].parametrizations.weight.original.requires_grad
    assert torch.equal(state, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for whole in (model, smaller) for m in whole.modules())


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.again(torch.relu(self.again(x))))
        return found


def test_what_cannot_be_fitted_is_said() -> None:
    model = Twice().eval()
    pruned = UnstructuredPruning()(model, "prune.sparsity", 0.5)
    done = reconstruct(pruned, model, [X])
    assert done.fitted == ("head",)
    assert done.left == {"again": "it runs more than once in a forward pass"}
    on_grid = WeightQuantization()(mlp(), "quantize.bits", 4)
    with pytest.raises(NotApplicable, match="its weight lies on a grid"):
        reconstruct(on_grid, mlp(), [X])
    with pytest.raises(NotApplicable, match="0: the original has no such layer"):
        reconstruct(nn.Sequential(nn.Linear(6, 6)), nn.Sequential(mlp()), [X])


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"batches": []}, "at least one batch"), ({"ridge": -1}, "ridge >= 0"), ({"places": 0}, "places >= 1"),
     ({"batches": [X, X[:, :2]]}, "cannot be concatenated")],
)  # fmt: skip
def test_bad_input_is_named(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(KMRError, match=why):
        reconstruct(mlp(), mlp(), **{"batches": [X], **changed})
