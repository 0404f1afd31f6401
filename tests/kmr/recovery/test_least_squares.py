import numpy as np
import pytest
import torch

from kmr.recovery.least_squares import refit


def problem(
    groups: int = 2, n: int = 60, k: int = 5, outputs: int = 3
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((groups, outputs, k), (groups, n, k), (groups, n, outputs))
    weight, inputs, targets = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return weight, inputs + 1, targets + 2


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_the_fit_is_numpys_with_the_ridge_as_further_rows(intercept: bool, ridge: float) -> None:
    weight, inputs, targets = problem()
    fitted, shift = refit(weight, inputs, targets, ridge=ridge, intercept=intercept)
    for g in range(2):
        x, y, start = (part[g].numpy() for part in (inputs, targets, weight))
        n, k = x.shape
        centred = x - x.mean(0) if intercept else x
        pull = np.sqrt(n * max(ridge, 1e-7) * (centred**2).mean()) * np.eye(k)
        rows = np.concatenate(
            [np.concatenate([x, np.full((n, 1), float(intercept))], 1), np.pad(pull, ((0, 0), (0, 1)))]
        )
        solved = np.linalg.lstsq(rows, np.concatenate([y, pull @ start.T]), rcond=None)[0]
        np.testing.assert_allclose(fitted[g].numpy(), solved[:k].T, atol=1e-8)
        np.testing.assert_allclose(shift[g].numpy(), solved[k] if intercept else 0, atol=1e-8)


def test_each_row_of_a_mask_is_a_regression_on_its_own_inputs() -> None:
    weight, inputs, targets = problem()
    keep = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    keep[0, 0] = False
    fitted, _ = refit(weight, inputs, targets, keep=keep, ridge=0.0, intercept=False)
    assert bool((fitted[~keep] == 0).all())
    for g, row in np.ndindex(2, 3):
        support = keep[g, row].numpy()
        solved = np.linalg.lstsq(inputs[g].numpy()[:, support], targets[g, :, row].numpy(), rcond=None)[0]
        np.testing.assert_allclose(fitted[g, row].numpy()[support], solved, atol=1e-5)


def test_inputs_that_never_vary_leave_their_weights_as_they_were() -> None:
    weight, inputs, targets = problem(groups=1)
    inputs[..., 2] = 0
    fitted, _ = refit(weight, inputs, targets)
    torch.testing.assert_close(fitted[0, :, 2], weight[0, :, 2])
    assert torch.isfinite(refit(weight, torch.zeros_like(inputs), targets)[0]).all()
