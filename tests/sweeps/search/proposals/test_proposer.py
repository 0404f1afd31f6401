import itertools

import numpy as np
import optuna
import pytest
from optuna.samplers import GridSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from scipy.integrate import quad
from scipy.optimize import check_grad
from scipy.stats import norm

from analysis.pareto.dominance import non_dominated
from analysis.pareto.hypervolume import hypervolume
from kmr.core import Choice, FloatRange, IntRange
from sweeps.errors import SweepError
from sweeps.search.problem import Problem, as_given
from sweeps.search.proposals.acquisition import Screen, Screening
from sweeps.search.proposals.improvement import expected_gain
from sweeps.search.proposals.mutation import mutations, random_vector
from sweeps.search.proposals.prediction import Trained
from sweeps.search.proposals.proposer import MOST_SCREENED, Proposer
from sweeps.search.proposals.sampler import MOST_REASKS
from sweeps.search.proposals.surrogate import Encoder, Surrogate, _loss
from sweeps.search.space import is_searched
from sweeps.search.study.proposal import how_proposed, untrained_of

optuna.logging.set_verbosity(optuna.logging.ERROR)
DIRECTIONS = {"size": "minimize", "quality": "maximize"}
SPACE = {"a": Choice((1, 2, 3, 4), 1), "b": Choice(("x", "y", "z"), "x"), "c": IntRange(0, 3, 0)}


def size(params):
    return {"size": float(params["a"] * (1 + params["c"]))}


def quality(params):
    return float(np.sqrt(params["a"]) + ("xyz".index(params["b"]) == 1) + 0.5 * params["c"])


def proposer(problem, sampler=None, screening=None, seed=0):
    study = optuna.create_study(directions=list(problem.objectives.values()), sampler=sampler or RandomSampler(seed=0))
    return study, Proposer(study, problem, seed, screening)


def train(study, problem, proposal):
    for name, value in problem.violations(proposal.static).items():
        proposal.trial.set_constraint(name, value)
    study.tell(proposal.trial, [size(proposal.trial.params)["size"], quality(proposal.trial.params)])


@pytest.mark.parametrize("screening", [None, Screening(startup=5)])
def test_every_vector_is_trained_once_until_none_is_left(screening):
    problem = Problem(SPACE, DIRECTIONS, static_costs=size)
    study, ask = proposer(problem, TPESampler(seed=1), screening)
    keys = set()
    while (proposal := ask.ask()) is not None:
        keys.add(as_given(proposal.trial.params))
        train(study, problem, proposal)
    assert len(keys) == len(study.get_trials(states=(TrialState.COMPLETE,))) == 4 * 3 * 4
    assert not study.get_trials(states=(TrialState.RUNNING,))


def test_vectors_of_one_model_are_one():
    problem = Problem(
        SPACE, DIRECTIONS, canonical=lambda params: params["a"] if params["b"] == "x" else as_given(params)
    )
    study, ask = proposer(problem)
    keys = []
    while (proposal := ask.ask()) is not None:
        keys.append(problem.canonical(proposal.trial.params))
        train(study, problem, proposal)
    assert len(keys) == len(set(keys)) == 4 + 2 * 4 * 4


def test_what_runs_is_not_proposed_again():
    problem = Problem(SPACE, DIRECTIONS, static_costs=size)
    _, ask = proposer(problem, screening=Screening(startup=2))
    running = [ask.ask() for _ in range(30)]
    assert len({as_given(proposal.trial.params) for proposal in running}) == 30


def test_infeasible_draws_are_told_as_pruned_with_every_constraint_in_sorted_order_then_mutated():
    space = {f"k{i}": IntRange(0, 9, 0) for i in range(8)}
    problem = Problem(
        space,
        DIRECTIONS,
        {"size": 8.0, "latency": 50.0, "quality": 0.1},
        static_costs=lambda p: {"size": float(sum(p.values())), "latency": float(10 * max(p.values()))},
    )
    study, ask = proposer(problem)
    proposal = ask.ask()
    assert sum(proposal.trial.params.values()) <= 8
    assert max(proposal.trial.params.values()) <= 5
    pruned = study.get_trials(states=(TrialState.PRUNED,))
    assert len(pruned) == MOST_REASKS
    for trial in pruned:
        assert list(trial.constraints) == ["latency", "quality", "size"]
        assert trial.constraints["size"] == sum(trial.params.values()) - 8
        assert trial.constraints["quality"] == 0.0
        broken = [name for name, value in trial.constraints.items() if value > 0]
        assert untrained_of(trial) == ("infeasible", f"it breaks the limit on {', '.join(broken)}")
    how = how_proposed(study.trials[-1])
    assert how.replaced
    assert how.rejected > 0


def test_screening_proposes_only_what_is_feasible():
    problem = Problem(SPACE, DIRECTIONS, {"size": 4.0}, static_costs=size)
    study, ask = proposer(problem, TPESampler(seed=0), Screening(startup=3, explore=0))
    for _ in range(12):
        proposal = ask.ask()
        assert proposal.static["size"] <= 4
        train(study, problem, proposal)


def test_a_problem_that_nothing_solves_ends():
    study, ask = proposer(Problem(SPACE, DIRECTIONS, {"size": 0.0}, static_costs=size))
    assert ask.ask() is None
    assert not study.get_trials(states=(TrialState.RUNNING,))


def test_what_nothing_near_or_extreme_meets_is_given_up_early(monkeypatch):
    clock = itertools.count()  # a candidate a second
    monkeypatch.setattr("sweeps.search.proposals.sampler.time.monotonic", lambda: float(next(clock)))
    looked_at = []

    def cost(params):
        looked_at.append(params)
        return {"size": 2.0 - params["d"]}

    space = {"d": FloatRange(0.0, 1.0, 0.0)}
    study = optuna.create_study(directions=list(DIRECTIONS.values()), sampler=RandomSampler(seed=0))
    ask = Proposer(study, Problem(space, DIRECTIONS, {"size": 0.9}, static_costs=cost), 0, patience=600.0)
    assert ask.ask() is None
    assert {"d": 1.0} in looked_at, "the corner that comes nearest"
    assert 60 < len(looked_at) < 200, "a tenth of the patience beyond the likely places"


def test_static_costs_that_never_work_are_an_error_and_that_sometimes_fail_are_avoided():
    def never(params):
        raise ValueError("no such layer")

    _, ask = proposer(Problem(SPACE, DIRECTIONS, static_costs=never))
    with pytest.raises(SweepError, match="ValueError: no such layer"):
        ask.ask()

    def sometimes(params):
        return {"size": float("nan")} if params["b"] == "x" else {"size": 1 / (params["a"] - 4)}

    problem = Problem(SPACE, DIRECTIONS, static_costs=sometimes)
    study, ask = proposer(problem)
    study.enqueue_trial({"a": 4, "b": "y", "c": 0})
    for _ in range(10):
        proposal = ask.ask()
        assert proposal.trial.params["a"] < 4
        assert proposal.trial.params["b"] != "x"
        train(study, problem, proposal)
    assert study.trials[0].state == TrialState.FAIL
    assert "ZeroDivisionError" in untrained_of(study.trials[0]).why


def test_an_enqueued_vector_comes_as_it_is_even_when_it_is_known():
    problem = Problem(SPACE, DIRECTIONS, static_costs=size)
    study, ask = proposer(problem)
    for _ in range(2):
        study.enqueue_trial({"a": 2, "b": "y", "c": 1})
    first = ask.ask()
    assert first.trial.params == {"a": 2, "b": "y", "c": 1}
    assert first.static == {"size": 4.0}
    train(study, problem, first)
    assert ask.ask().trial.params == first.trial.params


def test_the_same_seed_proposes_the_same():
    def run():
        problem = Problem(SPACE, DIRECTIONS, static_costs=size)
        study, ask = proposer(problem, TPESampler(seed=2), Screening(startup=4))
        for _ in range(15):
            train(study, problem, ask.ask())
        return [trial.params for trial in study.trials]

    assert run() == run()


def test_screening_finds_the_best_of_a_smooth_table_in_few_trainings():
    space = {"x": IntRange(0, 30, 0), "y": IntRange(0, 30, 0)}
    problem = Problem(space, DIRECTIONS, static_costs=lambda p: {"size": float(p["x"])})
    study, ask = proposer(problem, screening=Screening(startup=6, explore=0))
    for _ in range(30):
        proposal = ask.ask()
        x, y = proposal.trial.params["x"], proposal.trial.params["y"]
        study.tell(proposal.trial, [x, x / 30 - abs(y - 17) / 10])
    best = [trial.params["y"] for trial in study.best_trials]
    assert max(abs(y - 17) for y in best) <= 1


@pytest.mark.parametrize(
    "domain",
    [
        Choice(("a", "b", "c"), "a"),
        IntRange(2, 20, 2, step=3),
        FloatRange(0.0, 1.0, 0.0),
        FloatRange(1e-4, 1.0, 1e-4, log=True),
        FloatRange(0.0, 0.9, 0.0, step=0.1),
        FloatRange(0.5, 0.5, 0.5),
    ],
)
def test_mutations_turn_one_knob_inside_its_domain(domain):
    rng = np.random.default_rng(0)
    space = {"k": domain, "other": Choice((1, 2), 1)}
    for _ in range(20):
        vector = random_vector(space, rng)
        assert is_searched(domain, vector["k"])
        assert vector["k"] in domain
        for mutant in mutations(space, vector, rng):
            assert sum(mutant[name] != vector[name] for name in space) == 1
            assert mutant["k"] in domain


def test_the_gain_of_a_known_point_is_the_hypervolume_it_adds():
    rng = np.random.default_rng(0)
    for d, tolerance in ((2, 1e-12), (3, 0.08)):
        front = rng.random((12, d)) + 0.2
        front = front[non_dominated(front, ["minimize"] * d)]
        points, reference = rng.random((30, d)) * 1.2, np.full(d, 1.1)
        before = hypervolume(front, reference, ["minimize"] * d)
        added = [hypervolume(np.vstack([front, p]), reference, ["minimize"] * d) - before for p in points]
        gains = expected_gain(points[None], np.array([1.0]), front, reference)
        assert gains == pytest.approx(added, abs=tolerance)


def test_the_expected_gain_is_that_of_the_integral():
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    front, reference = np.array([[0.0, 2.0], [2.0, 0.0]]), np.array([3.0, 3.0])
    points = np.stack([np.full(9, 1.0), 0.5 + 0.3 * nodes], axis=1)[:, None, :]
    found = expected_gain(points, weights / weights.sum(), front, reference)[0]

    def added(y):
        return expected_gain(np.array([[[1.0, y]]]), np.ones(1), front, reference)[0] * norm.pdf(y, 0.5, 0.3)

    assert found == pytest.approx(quad(added, -2, 3, points=[0, 2])[0], rel=0.01)


def test_the_surrogate_interpolates_and_doubts_what_is_far():
    space = {"x": FloatRange(0.0, 1.0, 0.0), "kind": Choice(("a", "b"), "a")}
    encoder = Encoder(space)
    assert encoder.columns.tolist() == [0, 1, 1]
    vectors = [{"x": x, "kind": k} for x in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5) for k in "ab"]
    values = np.array([np.sin(3 * v["x"]) + (v["kind"] == "b") for v in vectors])
    model = Surrogate(encoder.columns)
    model.fit(encoder(vectors), values)
    mean, std = model.predict(encoder(vectors))
    assert model.unwarp(mean) == pytest.approx(values, abs=0.05)
    new = encoder([{"x": 0.25, "kind": "b"}, {"x": 1.0, "kind": "b"}])
    mean, doubt = model.predict(new)
    assert model.unwarp(mean)[0] == pytest.approx(np.sin(0.75) + 1, abs=0.05)
    assert doubt[1] > 3 * doubt[0]
    assert doubt[1] > 3 * std.max()


def test_a_surrogate_with_diverged_runs_still_tells_the_good_apart():
    x = np.linspace(0, 1, 16)
    inputs = np.array([[place, kind] for place in x for kind in (0.0, 1.0)])
    values = np.where(inputs[:, 1] == 1, 1e6, 0.01 + (inputs[:, 0] - 0.4) ** 2)
    model = Surrogate([0, 1])
    model.fit(inputs, values)
    mean, _ = model.predict(np.array([[0.1, 0], [0.41, 0], [0.7, 0], [0.41, 1]]))
    assert model.unwarp(mean)[:3] == pytest.approx([0.1, 0.0101, 0.1], abs=0.02)
    assert model.unwarp(mean)[3] > 10


def test_different_names_are_one_apart_and_the_features_of_a_knob_share_a_length():
    encoder = Encoder({"kind": Choice(("a", "b", "c"), "a"), "x": FloatRange(0.0, 2.0, 0.0)})
    rows = encoder([{"kind": "a", "x": 0.0}, {"kind": "b", "x": 0.0}, {"kind": "c", "x": 2.0}])
    squares = ((rows[:, None] - rows[None]) ** 2).sum(axis=2)
    assert squares == pytest.approx(np.array([[0, 1, 2], [1, 0, 2], [2, 2, 0]]))
    assert encoder.columns.tolist() == [0, 0, 0, 1]


def limited(limits, rows):
    """Return what is chosen among x = 0 … 9 from complete trials of x: a cost x, a quality and a time by rows."""
    space = {"x": IntRange(0, 9, 0), "y": IntRange(0, 1, 0)}
    problem = Problem(space, {"cost": "minimize", "quality": "maximize"}, limits)
    screen = Screen(problem, Screening(), np.random.default_rng(0))
    done = []
    for x, (quality, time) in rows.items():
        readings = {"cost": float(x), "quality": quality, "time": time}
        values = np.array([float(x), quality])
        done.append(Trained({"x": x, "y": 0}, values, {"cost": float(x)}, problem.violations(readings)))

    def fitting(vectors):
        new = {v["x"]: v for v in vectors if v["x"] not in rows and v["y"] == 0}
        return [(v, {"cost": float(v["x"])}) for v in new.values()]

    return screen.choose({"x": 9, "y": 0}, done, [], fitting)["x"]


def test_trials_outside_a_limit_teach_where_it_lies():
    steps = {x: (0.3 if x < 3 else 0.6, 1.0) for x in (0, 1, 2, 6, 8, 9)}
    assert limited({"quality": 0.45}, steps) in (3, 4, 5), "only a cheaper one within the floor is a gain"
    times = {x: (0.5 + x / 100, float(x)) for x in (0, 1, 2, 3, 6, 8)}
    assert limited({"time": 5.5}, times) in (4, 5), "the best that is fast enough"


def test_without_a_trial_within_the_limits_the_nearest_to_them_is_chosen():
    assert limited({"quality": 0.95}, {x: (x / 10, 1.0) for x in (0, 1, 2, 3, 5)}) >= 8


def test_a_surrogate_of_equal_values_gives_that_value():
    inputs = np.linspace(0, 1, 9)[:, None]
    model = Surrogate([0])
    model.fit(inputs, np.full(9, 2.5))
    assert model.unwarp(model.predict(inputs)[0]) == pytest.approx(2.5)


def test_the_slope_of_the_surrogates_loss_is_that_of_the_loss():
    rng = np.random.default_rng(0)
    inputs, targets = rng.random((20, 3)), rng.standard_normal(20)
    given = (inputs, np.array([0, 1, 1]), targets, np.zeros(3), np.ones(3))
    at = np.array([0.5, -1.0, -2.0])
    assert check_grad(lambda z: _loss(z, *given)[0], lambda z: _loss(z, *given)[1], at) < 1e-4


def test_a_trial_that_another_driver_finished_while_it_was_judged_is_let_go(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(study_name="s", storage=url, directions=["minimize", "maximize"])
    other = optuna.load_study(study_name="s", storage=url)
    study.enqueue_trial({"a": 4, "b": "x", "c": 3})

    def slow(params):
        for trial in other.get_trials(states=(TrialState.RUNNING,)):
            if trial.number == 0:
                other.tell(0, state=TrialState.PRUNED)
        return size(params)

    ask = Proposer(study, Problem(SPACE, DIRECTIONS, {"size": 3.0}, static_costs=slow), 0)
    assert ask.ask().trial.number > 0
    assert study.trials[0].state == TrialState.PRUNED


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", ["grid", "qmc"])
def test_a_fixed_sequence_of_which_nothing_fits_ends(name):
    problem = Problem({"c": IntRange(0, 3, 0)}, DIRECTIONS, {"size": -1.0}, static_costs=lambda v: {"size": v["c"]})
    sampler = GridSampler({"c": [0, 1, 2, 3]}, seed=0) if name == "grid" else QMCSampler(seed=0)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    assert Proposer(study, problem, 0, wrap=False).ask() is None
    assert len(study.trials) == (4 if name == "grid" else MOST_SCREENED)
    assert {trial.state for trial in study.trials} == {TrialState.PRUNED}


def test_knobs_with_one_value_each_are_one_vector():
    study, ask = proposer(Problem({"a": Choice((1,), 1), "c": IntRange(2, 2, 2)}, DIRECTIONS))
    study.tell(ask.ask().trial, [0.0, 0.0])
    assert ask.ask() is None
    study.enqueue_trial({"a": 1, "c": 2})
    assert ask.ask().trial.params == {"a": 1, "c": 2}


def test_a_vector_queued_after_nothing_was_left_is_given_out():
    study, ask = proposer(Problem({"c": IntRange(0, 1, 0)}, DIRECTIONS))
    for _ in range(2):
        study.tell(ask.ask().trial, [0.0, 0.0])
    assert ask.ask() is None
    study.enqueue_trial({"c": 1})
    again = ask.ask()
    assert again.trial.params == {"c": 1}


def test_a_genetic_algorithm_breeds_from_vectors_that_were_queued_too():
    study, ask = proposer(Problem(SPACE, DIRECTIONS), NSGAIISampler(population_size=6, seed=0))
    for c in range(4):
        study.enqueue_trial({"a": 1, "b": "x", "c": c})
    for _ in range(8):
        train(study, Problem(SPACE, DIRECTIONS), ask.ask())
    generations = [trial.system_attrs["NSGAIISampler:generation"] for trial in study.trials]
    assert generations == [0] * 6 + [1] * 2


@pytest.mark.parametrize(("others", "explored"), [(0, [3, 6]), (3, [3, 6]), (2, [4, 7])])
def test_an_exploring_draw_comes_after_trials_that_added_nothing_and_no_earlier(monkeypatch, others, explored):
    """`others` are under way beside it: of proposals made side by side one explores."""
    problem = Problem(
        {"x": IntRange(0, 200, 0), "y": IntRange(0, 200, 0)}, DIRECTIONS, static_costs=lambda v: {"size": float(v["x"])}
    )
    study, ask = proposer(problem, TPESampler(seed=1), Screening(startup=2, explore=3))
    asked = []
    choose = Screen.choose
    monkeypatch.setattr(Screen, "choose", lambda self, *a: asked.append(True) or choose(self, *a))
    for _ in range(others):
        ask.ask()

    def step(value):
        asked.clear()
        trial = ask.ask().trial
        study.tell(trial, value)
        return not asked

    for better in range(3):
        step([100.0 - better, 0.5 + better / 10])
    assert True not in [step([90.0 - better, 0.8 + better / 100]) for better in range(9)], "the front grows"
    found = [idle for idle in range(9) if step([150.0, 0.0])]
    assert found == explored
