import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kmr.core import KMRError, NonFiniteReading
from kmr.data import Split
from kmr.finetune import FineTune, mean_squared_error
from kmr.weights import Grid, WeightState, read_weight, write_weight


def line(n: int = 64) -> Split:
    """y = 3x − 1."""
    x = torch.linspace(-1, 1, n)[:, None]
    return Split((x, 3 * x - 1), batch_size=16)


def adam(lr: float):
    return lambda parameters: torch.optim.Adam(parameters, lr=lr)


def test_it_fits_a_line_whose_coefficients_are_known() -> None:
    torch.manual_seed(0)
    model = FineTune(data=line(), loss=mean_squared_error, epochs=80, optimizer=adam(0.1))(nn.Linear(1, 1))
    assert model.weight.item() == pytest.approx(3, abs=0.02)
    assert model.bias.item() == pytest.approx(-1, abs=0.02)


def test_the_same_seed_gives_the_same_model_and_leaves_the_generator() -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    state = torch.random.get_rng_state()
    outcomes = [
        FineTune(data=line(), loss=mean_squared_error, epochs=2, seed=seed)(copy.deepcopy(base)) for seed in (1, 1, 2)
    ]
    weights = [model[0].weight for model in outcomes]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_masks_and_grids_hold_through_any_optimizer(optimizer) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))
    keep = torch.rand(16, 1) > 0.5
    scale, zero = torch.full((1, 16), 0.1), torch.full((1, 16), 4.0)
    write_weight(model[0], WeightState(model[0].weight.detach(), keep=keep))
    write_weight(model[2], WeightState(model[2].weight.detach(), grid=Grid(scale, zero, bits=3)))
    before = [read_weight(layer).weight.clone() for layer in (model[0], model[2])]
    tune = FineTune(data=line(), loss=mean_squared_error, epochs=3, optimizer=lambda p: optimizer(p, lr=0.05))
    model = tune(model)
    pruned, gridded = read_weight(model[0]).weight, read_weight(model[2]).weight
    assert not torch.equal(before[0], pruned), "the kept weights were trained"
    assert torch.equal(pruned == 0, ~keep)
    codes = gridded / 0.1
    assert torch.allclose(codes, codes.round(), atol=1e-4)
    assert set(codes.round().flatten().tolist()) <= set(range(-4, 4))
    latent = model[2].parametrizations.weight.original
    assert torch.equal(latent, gridded), "the latent weights are settled"


def test_the_steps_taken_are_those_asked_for() -> None:
    seen = []
    FineTune(data=line(), loss=mean_squared_error, epochs=0.5, progress=lambda *told: seen.append(told[:2]))(
        nn.Linear(1, 1)
    )
    assert seen == [(1, 2), (2, 2)]
    assert FineTune(data=line(), epochs=0.5, steps=9).total_steps == 9
    model = nn.Linear(1, 1)
    before = model.weight.clone()
    assert torch.equal(FineTune(data=line(), steps=0)(model).weight, before)


def test_the_mode_of_the_model_is_kept() -> None:
    model = nn.Linear(1, 1).eval()
    tuned = FineTune(data=line(), loss=mean_squared_error, steps=1)(model)
    assert not tuned.training


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    with pytest.raises(NonFiniteReading, match="step 0"):
        FineTune(data=line(), loss=lambda out, y: F.mse_loss(out, y) * math.nan, steps=3)(nn.Linear(1, 1))


def test_the_squared_error_reads_columns_as_rows_and_refuses_to_broadcast() -> None:
    assert mean_squared_error(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0])).item() == 2.0
    with pytest.raises(KMRError, match="do not fit"):
        mean_squared_error(torch.zeros(4, 2), torch.zeros(4))


@pytest.mark.parametrize("bad", [{"schedule": "linear"}, {"epochs": -1.0}, {"steps": -2}])
def test_bad_settings_are_refused(bad) -> None:
    with pytest.raises(KMRError):
        FineTune(data=line(), **bad)
