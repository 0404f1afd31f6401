import contextlib
import copy
import functools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kmr.core import KMRError, NonFiniteReading
from kmr.data import Split
from kmr.finetune import Batch, FineTune, Guidance, Guide, mean_squared_error
from kmr.representation.weights import Grid, WeightState, read_weight, write_weight


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
    with pytest.raises(KMRError, match="do not match"):
        mean_squared_error(torch.zeros(4, 2), torch.zeros(4))


BAD = [
    {"schedule": "steep"}, {"epochs": -1.0}, {"steps": -2}, {"warmup": -1}, {"precision": "int8"}, {"keep": "first"},
    {"keep": "best"}, {"patience": 2}, {"holdout": 1.0}, {"patience": 0, "holdout": 0.5}, {"seconds": 0.0},
    {"guides": {"kd": "a teacher"}},
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_bad_settings_are_refused(bad) -> None:
    with pytest.raises(KMRError):
        FineTune(data=line(), **bad)


def fitted(**settings) -> nn.Module:
    torch.manual_seed(0)
    return FineTune(data=line(), loss=mean_squared_error, **{"steps": 12, **settings})(nn.Linear(1, 1))


def test_a_loss_of_model_and_batch_takes_the_place_of_the_other() -> None:
    def own(model: nn.Module, batch) -> torch.Tensor:
        inputs, targets = batch
        return mean_squared_error(model(inputs), targets)

    assert torch.equal(fitted().weight, fitted(batch_loss=own).weight)
    assert not torch.equal(fitted().weight, fitted(batch_loss=lambda m, batch: 2 * own(m, batch)).weight)


def test_steps_by_hand_with_a_clipped_gradient() -> None:
    # One sample, f(x) = w·x with x = 1 and y = 0: the gradient of w² at w = 3 is 6, clipped to 0.5.
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(3.0)
    data = Split((torch.ones(1, 1), torch.zeros(1, 1)), batch_size=1)
    settings = {
        "data": data, "loss": mean_squared_error, "optimizer": functools.partial(torch.optim.SGD, lr=0.1),
        "schedule": "constant",
    }  # fmt: skip
    clipped = FineTune(**settings, steps=2, max_norm=0.5)(copy.deepcopy(model))
    assert clipped.weight.item() == pytest.approx(3 - 2 * 0.05, abs=1e-5)
    free = FineTune(**settings, steps=1, max_norm=None)(copy.deepcopy(model))
    assert free.weight.item() == pytest.approx(3 - 0.6)
    warm = FineTune(**settings, steps=1, warmup=4, max_norm=None)(copy.deepcopy(model))
    assert warm.weight.item() == pytest.approx(3 - 0.6 / 4)


def climbing(**settings) -> tuple[nn.Module, int]:
    """Train w of f(x) = w·x away from its best value 0: a gradient of −1 raises it by 1 each step."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.zero_()
    steps: list[int] = []
    data = Split((torch.ones(4, 1), torch.zeros(4, 1)), batch_size=1)

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return -outputs.sum() if outputs.requires_grad else outputs.square().mean()

    tune = FineTune(
        data=data, loss=loss, optimizer=functools.partial(torch.optim.SGD, lr=1.0), schedule="constant", max_norm=None,
        holdout=0.25, progress=lambda done, *_: steps.append(done), **settings,
    )  # fmt: skip
    return tune(model), steps[-1]


def test_the_best_weights_are_kept_and_patience_ends_the_training() -> None:
    last, taken = climbing(steps=10, keep="last", patience=None)
    assert (last.weight.item(), taken) == (10.0, 10)
    best, taken = climbing(steps=10, keep="best")
    assert (best.weight.item(), taken) == (0.0, 10)
    last, taken = climbing(steps=100, patience=2, check_every=3)
    assert (last.weight.item(), taken) == (6.0, 6)


def test_the_holdout_is_not_trained_on() -> None:
    x = torch.arange(10.0)[:, None]
    seen: list[float] = []

    def watch(model: nn.Module, batch) -> torch.Tensor:
        if model.training:
            seen.extend(batch[0].flatten().tolist())
        return model(batch[0]).square().mean()

    FineTune(data=Split((x, x), 2), batch_loss=watch, epochs=3, keep="best", holdout=0.3, seed=4)(nn.Linear(1, 1))
    assert len(set(seen)) == 7
    # Three epochs of ⌈7/2⌉ steps over all seven.
    assert sorted(seen) == sorted(3 * list(set(seen)))


def test_any_scheduler_is_told_the_length() -> None:
    rates: list[float] = []
    optimizers: list[torch.optim.Optimizer] = []

    def optimizer(parameters):
        optimizers.append(torch.optim.SGD(parameters, lr=1e-3))
        return optimizers[0]

    fitted(
        steps=4, optimizer=optimizer, schedule=functools.partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1),
        progress=lambda *_: rates.append(optimizers[0].param_groups[0]["lr"]),
    )  # fmt: skip
    assert len(rates) == 4
    assert max(rates) == pytest.approx(0.1, rel=0.3)
    step = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    rates.clear()
    optimizers.clear()
    fitted(
        steps=3, optimizer=optimizer, schedule=step,
        progress=lambda *_: rates.append(optimizers[0].param_groups[0]["lr"]),
    )  # fmt: skip
    assert rates == pytest.approx([5e-4, 2.5e-4, 1.25e-4])


def test_a_plateau_lowers_the_rate_by_the_validation_loss() -> None:
    plateau = functools.partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.1)
    with pytest.raises(KMRError, match="holdout"):
        FineTune(data=line(), schedule=plateau)
    optimizers: list[torch.optim.Optimizer] = []

    def optimizer(parameters):
        optimizers.append(torch.optim.SGD(parameters, lr=1e-6))
        return optimizers[0]

    fitted(steps=8, schedule=plateau, holdout=0.25, optimizer=optimizer, check_every=1)
    assert optimizers[0].param_groups[0]["lr"] < 1e-6


def test_a_time_limit_ends_it_after_a_step() -> None:
    steps = []
    FineTune(
        data=line(), loss=mean_squared_error, steps=1000, seconds=1e-9, progress=lambda done, *_: steps.append(done)
    )(nn.Linear(1, 1))
    assert steps == [1]


def test_a_weight_that_is_not_finite_is_noticed_although_no_loss_shows_it() -> None:
    class Diverging(torch.optim.SGD):
        def step(self, closure=None):
            self.param_groups[0]["params"][0].data.fill_(math.inf)

    with pytest.raises(NonFiniteReading, match="weight"):
        fitted(steps=1, optimizer=lambda parameters: Diverging(parameters, lr=0.1))


@dataclass(frozen=True)
class Pull(Guide):
    """Adds a learned offset b: (b − 2)², and twice the loss."""

    made: list

    @contextlib.contextmanager
    def attach(self, model, data, original):
        offset = nn.Parameter(torch.zeros(()))

        class Pulling(Guidance):
            parameters = (offset,)

            def __call__(self, loss: torch.Tensor, batch: Batch) -> torch.Tensor:
                assert torch.equal(batch.inputs, data.source[0][batch.places])
                assert batch.outputs.requires_grad
                assert original is not model
                return 2 * loss + (offset - 2).square()

        yield Pulling()
        self.made.append((offset.item(), len(model._forward_hooks)))


def test_a_guide_adds_to_the_loss_and_trains_what_it_brings() -> None:
    made: list = []
    guided = fitted(
        steps=200, guides={"pull": Pull(made)}, schedule="constant", max_norm=None, original=nn.Linear(1, 1),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.05),
    )  # fmt: skip
    assert made[0][0] == pytest.approx(2, abs=1e-3)
    plain = fitted(
        steps=200, schedule="constant", max_norm=None, batch_loss=lambda m, b: 2 * mean_squared_error(m(b[0]), b[1]),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.05),
    )  # fmt: skip
    assert torch.equal(guided.weight, plain.weight)
    assert not guided._forward_hooks
