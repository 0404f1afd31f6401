import itertools

import numpy as np
import pytest
import torch

from kmr.recovery.elimination import removal_costs


def problem(channels: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(channels * width, channels * width, generator=generator, dtype=torch.float64)
    inputs = torch.randn(500, channels * width, generator=generator, dtype=torch.float64) @ mixed
    return torch.randn(3, channels * width, generator=generator, dtype=torch.float64), inputs


def left_over(weight: torch.Tensor, inputs: torch.Tensor, kept: list[int]) -> float:
    """Return the squared error of the best fit to the outputs from some columns, by an independent solver."""
    targets = (inputs @ weight.T).numpy()
    x = inputs[:, kept].numpy()
    fitted = x @ np.linalg.lstsq(x, targets, rcond=None)[0] if kept else np.zeros_like(targets)
    return float(((targets - fitted) ** 2).sum() / len(targets))


@pytest.mark.parametrize("width", [1, 3])
def test_the_first_to_go_costs_what_a_refit_without_it_loses_and_no_other_costs_less(width: int) -> None:
    weight, inputs = problem(4, width)
    costs = removal_costs(weight, inputs.T @ inputs / len(inputs), 4, ridge=1e-12)
    alone = [left_over(weight, inputs, [c for c in range(4 * width) if c // width != channel]) for channel in range(4)]
    assert float(costs.min()) == pytest.approx(min(alone), rel=1e-5)
    assert int(costs.argmin()) == int(np.argmin(alone))


def test_the_costs_along_the_elimination_add_up_to_the_error_of_what_is_left() -> None:
    weight, inputs = problem(5, 2)
    costs = removal_costs(weight, inputs.T @ inputs / len(inputs), 5, ridge=1e-12)
    order = costs.argsort(stable=True).tolist()
    errors = [left_over(weight, inputs, [c for c in range(10) if c // 2 in order[removed:]]) for removed in range(6)]
    steps = [after - before for before, after in itertools.pairwise(errors)]
    assert costs[order].tolist() == pytest.approx(list(itertools.accumulate(steps, max)), rel=1e-5)


def test_a_channel_that_others_hold_costs_nothing() -> None:
    weight, inputs = problem(4, 1)
    inputs[:, 2] = 2 * inputs[:, 0] - inputs[:, 3]
    costs = removal_costs(weight, inputs.T @ inputs / len(inputs), 4, ridge=1e-9)
    assert float(costs.min()) < 1e-6 * float(costs.max())
    silent = removal_costs(weight, torch.zeros(4, 4, dtype=torch.float64), 4)
    assert bool(torch.isfinite(silent).all())
