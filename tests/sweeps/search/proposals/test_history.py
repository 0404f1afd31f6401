"""What a study has tried, read on as it grows."""

import optuna
from optuna.trial import TrialState, create_trial

from kmr.core import FloatRange, Value
from sweeps.search.problem import Params, Problem
from sweeps.search.proposals.history import History
from sweeps.search.space import distributions
from sweeps.search.study.attributes import INTERMEDIATE_OF, OUTCOME

SPACE = {"x": FloatRange(0.0, 1.0, neutral=0.0), "y": FloatRange(0.0, 1.0, neutral=0.0)}


def rounded(params: Params) -> tuple[tuple[str, Value], ...]:
    return tuple(sorted((name, round(float(value), 1)) for name, value in params.items()))


def told(
    study: optuna.Study,
    x: float,
    broken: float = 0.0,
    state: TrialState = TrialState.COMPLETE,
    of: int | None = None,
    outcome: str | None = None,
) -> None:
    more = {INTERMEDIATE_OF: of, OUTCOME: outcome and {"state": outcome}}
    study.add_trial(
        create_trial(
            state=state,
            params={"x": x, "y": 0.5},
            distributions=distributions(SPACE),
            values=[x, x] if state == TrialState.COMPLETE else None,
            constraints={"limit": broken},
            user_attrs={name: value for name, value in more.items() if value is not None},
        )
    )


def test_reading_on_gives_what_reading_anew_gives() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    problem = Problem(SPACE, {"a": "minimize", "b": "maximize"}, canonical=rounded)
    history = History(problem)
    first = study.ask(distributions(SPACE))
    study.enqueue_trial({"x": 0.9, "y": 0.5})
    told(study, 0.1)
    history.read(study)
    assert [t.number for t in history.running] == [first.number]
    assert history.idle == 0
    assert history.knows(rounded(first.params))
    assert not history.knows(rounded({"x": 0.9, "y": 0.5})), "it waits"
    told(study, 0.2, broken=1.0)
    told(study, 0.14, of=0)
    told(study, 0.3, state=TrialState.PRUNED)
    second = study.ask(distributions(SPACE))
    assert second.params["x"] == 0.9
    study.tell(second, [1.0, 1.0])
    study.tell(first, state=TrialState.FAIL)
    for history in (history, History(problem)):  # noqa: B020
        history.read(study)
        assert [t.number for t in history.complete] == [1, 2, 3, 4]
        assert [t.number for t in history.feasible] == [1, 2, 4], "the third breaks a limit"
        assert history.running == []
        assert history.idle == 0, "the newest is on the front"
        assert all(history.knows(rounded({"x": x, "y": 0.5})) for x in (0.1, 0.2, 0.3, 0.9))
        assert history.knows(rounded(first.params)), "one that failed is not tried again"
        assert history.has_ended(rounded(first.params))
        assert not history.has_ended(rounded({"x": 0.7, "y": 0.5}))


def test_idle_are_the_trials_since_the_newest_on_the_front() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    history = History(Problem(SPACE, {"a": "minimize", "b": "minimize"}, canonical=rounded))
    expected = []
    for x, more, idle in (
        (0.5, {}, 0),
        (0.6, {}, 1),
        (0.55, {"of": 1}, 1),  # a model on the way counts only where it is on the front
        (0.7, {"state": TrialState.FAIL, "outcome": "failed"}, 2),
        (0.7, {"state": TrialState.FAIL, "outcome": "interrupted"}, 2),  # it is tried again
        (0.7, {"state": TrialState.FAIL}, 2),  # turned down, as the next one
        (0.8, {"state": TrialState.PRUNED}, 2),
        (0.8, {"state": TrialState.PRUNED, "outcome": "pruned"}, 3),  # halving stopped it
        (0.1, {"broken": 1.0}, 4),
        (0.5, {}, 5),
        (0.4, {"of": 3}, 0),
        (0.45, {}, 1),
    ):
        told(study, x, **more)
        history.read(study)
        expected.append((x, idle, history.idle))
    assert [idle for _, idle, _ in expected] == [found for _, _, found in expected]
    anew = History(Problem(SPACE, {"a": "minimize", "b": "minimize"}, canonical=rounded))
    anew.read(study)
    assert anew.idle == 1
