"""Probabilities of being on the front against closed forms and against numerical integration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from analysis.pareto import probability
from analysis.pareto.dominance import non_dominated
from analysis.pareto.probability import probability_non_dominated
from analysis.table import StudyTable
from analysis.uncertainty import front_probability

COST_QUALITY = ("minimize", "maximize")


def test_exact_readings_give_the_front_itself() -> None:
    values = np.array([[1.0, 0.5], [2.0, 0.9], [3.0, 0.8], [4.0, 0.95]])
    found = probability_non_dominated(values, np.zeros((4, 2)), COST_QUALITY, draws=3)
    assert found.tolist() == [1.0, 1.0, 0.0, 1.0]


def test_two_points_with_exact_costs_follow_the_closed_form() -> None:
    # The dearer point is non-dominated when its quality is the higher: Φ(Δ / √(s₁² + s₂²)).
    values, stderrs = np.array([[1.0, 0.90], [2.0, 0.91]]), np.array([[0.0, 0.01], [0.0, 0.02]])
    cheap, dear = probability_non_dominated(values, stderrs, COST_QUALITY, draws=20000)
    assert cheap == 1.0
    assert dear == pytest.approx(norm.cdf(0.01 / math.hypot(0.01, 0.02)), abs=0.01)


def test_noise_in_both_objectives_multiplies() -> None:
    # The second is dominated when it is worse in both, which are independent.
    values, stderrs = np.array([[1.0, 0.9], [1.1, 0.88]]), np.array([[0.1, 0.02], [0.2, 0.01]])
    _, second = probability_non_dominated(values, stderrs, COST_QUALITY, draws=20000)
    dearer, worse = norm.cdf(0.1 / math.hypot(0.1, 0.2)), norm.cdf(0.02 / math.hypot(0.02, 0.01))
    assert second == pytest.approx(1 - dearer * worse, abs=0.01)


def test_many_points_follow_the_integral_over_the_best_of_the_cheaper() -> None:
    # P = ∫ φᵢ(q) Π Φⱼ(q) dq over all j that cost less.
    random = np.random.default_rng(3)
    cost = np.arange(8.0)
    quality, noise = np.sort(random.uniform(0.8, 0.9, 8)), random.uniform(0.01, 0.04, 8)
    values = np.column_stack([cost, quality])
    found = probability_non_dominated(values, np.column_stack([np.zeros(8), noise]), COST_QUALITY, draws=20000)
    for i in range(8):

        def density(q: float, i: int = i) -> float:
            return float(norm.pdf(q, quality[i], noise[i]) * np.prod(norm.cdf(q, quality[:i], noise[:i])))

        expected, _ = quad(density, 0.5, 1.2, points=[quality[i]])
        assert found[i] == pytest.approx(expected, abs=0.012)


def test_what_models_have_in_common_cancels() -> None:
    values, stderrs = np.array([[1.0, 0.90], [2.0, 0.91]]), np.array([[0.0, 0.05], [0.0, 0.05]])
    shared = np.random.default_rng(0).normal(0, 0.05, 200)
    replicates = np.full((200, 2, 2), np.nan)
    replicates[:, :, 1] = values[:, 1] + shared[:, None]
    alone = probability_non_dominated(values, stderrs, COST_QUALITY)
    together = probability_non_dominated(values, stderrs, COST_QUALITY, replicates=replicates)
    assert alone[1] < 0.7
    assert together.tolist() == [1.0, 1.0]


def test_the_estimate_is_the_same_each_time_and_whatever_else_is_far_away() -> None:
    values, stderrs = np.array([[1.0, 0.90], [2.0, 0.91]]), np.array([[0.0, 0.01], [0.0, 0.02]])
    far = np.vstack([values, [[5.0, 0.1], [6.0, 0.2]]])
    errors = np.vstack([stderrs, [[0.0, 0.001], [0.0, 0.001]]])
    once = probability_non_dominated(values, stderrs, COST_QUALITY)
    assert once.tolist() == probability_non_dominated(values, stderrs, COST_QUALITY).tolist()
    assert probability_non_dominated(far, errors, COST_QUALITY).tolist() == [*once, 0.0, 0.0]


def test_rows_that_are_not_finite_have_none_and_unknown_errors_are_zero() -> None:
    values = np.array([[1.0, 0.9], [np.nan, 0.8], [2.0, np.inf]])
    found = probability_non_dominated(values, np.full((3, 2), np.nan), COST_QUALITY)
    assert found[0] == 1.0
    assert np.isnan(found[1:]).all()
    assert len(probability_non_dominated(np.empty((0, 2)), np.empty((0, 2)), COST_QUALITY)) == 0


@pytest.mark.parametrize(
    ("stderrs", "more", "message"),
    [
        (np.zeros((1, 2)), {}, "do not fit values"),
        (np.full((2, 2), -1.0), {}, "at least 0"),
        (np.zeros((2, 2)), {"draws": 0}, "draws \\(0\\) at least 1"),
        (np.zeros((2, 2)), {"replicates": np.zeros((3, 1, 2))}, "replicates of shape"),
    ],
)
def test_bad_input_is_named(stderrs, more, message) -> None:
    with pytest.raises(ValueError, match=message):
        probability_non_dominated(np.zeros((2, 2)), stderrs, COST_QUALITY, **more)


def test_a_table_has_none_for_what_is_not_complete(table: StudyTable) -> None:
    found = front_probability(table)
    complete = table.complete.to_numpy(dtype=bool)
    assert np.isnan(found[~complete]).all()
    assert ((found[complete] >= 0) & (found[complete] <= 1)).all()
    assert found[complete].max() > 0.9


def test_an_exact_column_sorted_once_counts_as_every_draw_sorted_anew(monkeypatch) -> None:
    random = np.random.default_rng(5)
    values = np.column_stack([random.integers(0, 12, 60), random.uniform(0.8, 0.9, 60)]).astype(float)
    values[7] = values[3]
    stderrs = np.column_stack([np.zeros(60), random.uniform(0.0, 0.02, 60)])
    stderrs[[3, 7]] = 0.0
    for flip in (slice(None), slice(None, None, -1)):
        directions = COST_QUALITY[flip]
        fast = probability_non_dominated(values[:, flip], stderrs[:, flip], directions)
        with monkeypatch.context() as slowly:
            slowly.setattr(probability, "_winners", _sorted_anew)
            slow = probability_non_dominated(values[:, flip], stderrs[:, flip], directions)
        assert fast.tolist() == slow.tolist()


def _sorted_anew(costs, errors, replicates):
    return lambda drawn: np.flatnonzero(non_dominated(drawn, ["minimize", "minimize"]))
