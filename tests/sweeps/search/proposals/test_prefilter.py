"""A shortlist of candidates whose costs are read, by costs that are guessed from what has been read."""

import math

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from scipy.stats import norm

from kmr.core import FloatRange, IntRange
from sweeps.search.problem import Problem
from sweeps.search.proposals.acquisition import Screen, Screening
from sweeps.search.proposals.prefilter import CostGuess, Shortlist
from sweeps.search.proposals.proposer import Proposer
from sweeps.search.proposals.surrogate import Encoder, Surrogate

SPACE = {name: IntRange(0, 19, neutral=0) for name in "abc"}
DIRECTIONS = {"size": "minimize", "quality": "maximize"}
LIMIT = 40.0


def size(params):
    return {"size": float(sum((19 - value) * weight for value, weight in zip(params.values(), (8, 4, 2), strict=True)))}


def quality(params):
    return -sum((value / 19) ** power for value, power in zip(params.values(), (6, 4, 2), strict=True))


PROBLEM = Problem(SPACE, DIRECTIONS, {"size": LIMIT}, static_costs=size)


def vectors(count, seed=0):
    rng = np.random.default_rng(seed)
    return [{name: int(rng.integers(0, 20)) for name in SPACE} for _ in range(count)]


def test_costs_are_guessed_from_what_was_read_whether_it_fits_or_not() -> None:
    guess = CostGuess(PROBLEM, Encoder(SPACE))
    guess.fit()
    assert not list(guess.objectives), "nothing has been read"
    for vector in vectors(60):
        guess.read(vector, size(vector))
    guess.fit()
    asked = vectors(200, seed=1)
    true = np.array([size(vector)["size"] for vector in asked])
    assert list(guess.objectives) == ["size"]
    np.testing.assert_allclose(guess("size", asked), true, atol=12.0)  # of 266
    likely = guess.feasible(asked)
    assert likely[true <= LIMIT - 12].min() > 0.9
    assert likely[true > LIMIT + 12].max() < 0.1


def test_a_cost_to_be_maximised_and_a_least_value_keep_their_sense() -> None:
    problem = Problem(
        SPACE, {"speed": "maximize", "quality": "maximize"}, {"speed": 230.0}, static_costs=lambda params: {}
    )
    guess = CostGuess(problem, Encoder(SPACE))
    for vector in vectors(60):
        guess.read(vector, {"speed": 266.0 - size(vector)["size"]})
    guess.fit()
    slow, fast = {"a": 0, "b": 0, "c": 0}, {"a": 19, "b": 19, "c": 19}
    assert guess("speed", [slow])[0] < guess("speed", [fast])[0]
    assert guess.feasible([slow])[0] < 0.01 < 0.99 < guess.feasible([fast])[0]


def test_costs_that_are_no_numbers_or_not_there_are_passed_over() -> None:
    guess = CostGuess(PROBLEM, Encoder(SPACE))
    for number, vector in enumerate(vectors(60)):
        strange = ({"size": math.inf}, {"size": math.nan}, {}, {"other": 1.0})
        guess.read(vector, size(vector) if number % 2 else strange[number // 2 % 4])
    guess.fit()
    asked = vectors(100, seed=1)
    true = np.array([size(vector)["size"] for vector in asked])
    np.testing.assert_allclose(guess("size", asked), true, atol=20.0)


def shortlist_that_reads(read, misfit=lambda vector: size(vector)["size"] > LIMIT):
    """Return a shortlist and what tells it which vectors fit, noting what is read."""
    shortlist = Shortlist(PROBLEM, Encoder(SPACE), 8)

    def fitting(asked):
        for vector in asked:
            read.append(tuple(vector.values()))
            shortlist.guess.read(vector, size(vector))
        return [(vector, size(vector)) for vector in asked if not misfit(vector)]

    return shortlist, fitting


def largest(some):
    return np.array([size(vector)["size"] for vector in some])


def test_a_list_of_which_nothing_fits_teaches_the_next() -> None:
    read: list[tuple[int, ...]] = []
    shortlist, fitting = shortlist_that_reads(read)
    for vector in ({"a": 19, "b": 19, "c": 19}, {"a": 19, "b": 17, "c": 18}):  # what is known at first fits
        shortlist.guess.read(vector, size(vector))
    shortlist.guess.fit()
    pool = [vector for vector in vectors(400) if size(vector)["size"] > 20]
    assert 0 < sum(size(vector)["size"] <= LIMIT for vector in pool) < 20
    found = shortlist.pick(pool, largest, lambda some: [], 0, fitting)
    assert found
    assert all(costs["size"] <= LIMIT for _, costs in found)
    assert 8 < len(read) <= 4 * 8, "the first list held nothing"


def test_nothing_that_did_not_fit_or_was_trained_takes_a_place_again() -> None:
    read: list[tuple[int, ...]] = []
    shortlist, fitting = shortlist_that_reads(read, misfit=lambda vector: True)
    pool = vectors(50)
    shortlist.leave_out(pool[0])
    for _ in range(2):
        assert shortlist.pick(pool, largest, lambda some: [], 0, fitting) == []
    assert len(read) == len(set(read)) == len({tuple(vector.values()) for vector in pool}) - 1
    assert tuple(pool[0].values()) not in read


def test_what_fits_stays_eligible_and_what_is_near_the_best_joins() -> None:
    read: list[tuple[int, ...]] = []
    shortlist, fitting = shortlist_that_reads(read, misfit=lambda vector: False)
    pool, best = vectors(30), {"a": 0, "b": 0, "c": 0}
    for _ in range(2):
        found = shortlist.pick(pool, largest, lambda some: [best], 1, fitting)
        assert found[0][0] == best, "the best comes first"
        assert len(found) == 8
    assert read[:8] == read[8:]


def test_screening_with_a_shortlist_has_a_say_under_a_tight_limit(monkeypatch) -> None:
    chosen = []
    choose = Screen.choose

    def noted(self, *args):
        chosen.append(choose(self, *args))
        return chosen[-1]

    monkeypatch.setattr(Screen, "choose", noted)
    read = 0

    def counted(params):
        nonlocal read
        read += 1
        return size(params)

    problem = Problem(SPACE, DIRECTIONS, {"size": LIMIT}, static_costs=counted)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=RandomSampler(seed=0))
    ask = Proposer(study, problem, 0, Screening(startup=5, explore=0, shortlist=8))
    for _ in range(30):
        trial, static = ask.ask()
        assert static["size"] <= LIMIT
        study.tell(trial, [static["size"], quality(trial.params)])
    assert len(chosen) >= 20, "the rest came before there was anything to learn from"
    assert None not in chosen
    assert read < 400, "of 8,000 vectors"


def test_the_probability_to_stay_below_is_that_of_the_prediction() -> None:
    space = {"x": FloatRange(0.0, 1.0, neutral=0.0)}
    inputs = Encoder(space)([{"x": x} for x in np.linspace(0, 1, 12)])
    values = 3 + np.sin(5 * inputs[:, 0]) * 40
    model = Surrogate([False])
    model.fit(inputs, values)
    between = np.array([[0.05], [0.33], [0.77]])
    mean, std = model.predict(between)
    middle = model.unwarp(mean)
    for row, value in enumerate(middle):
        assert math.isclose(model.probability_below(between, value)[row], 0.5, abs_tol=1e-6)
        upper = model.unwarp(mean + std)[row]
        assert math.isclose(model.probability_below(between, upper)[row], norm.cdf(1.0), abs_tol=1e-6)
