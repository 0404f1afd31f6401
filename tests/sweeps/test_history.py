"""What a study has tried, read on as it grows."""

import optuna
from optuna.trial import TrialState, create_trial

from kmr.core import FloatRange, Value
from sweeps.history import History
from sweeps.problem import Params, Problem
from sweeps.space import distributions

SPACE = {"x": FloatRange(0.0, 1.0, neutral=0.0), "y": FloatRange(0.0, 1.0, neutral=0.0)}


def rounded(params: Params) -> tuple[tuple[str, Value], ...]:
    return tuple(sorted((name, round(float(value), 1)) for name, value in params.items()))


def told(study: optuna.Study, x: float, broken: float = 0.0, state: TrialState = TrialState.COMPLETE) -> None:
    study.add_trial(
        create_trial(
            state=state,
            params={"x": x, "y": 0.5},
            distributions=distributions(SPACE),
            values=[x, x] if state == TrialState.COMPLETE else None,
            constraints={"limit": broken},
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
    assert history.tried == 2
    assert history.knows(rounded(first.params))
    assert not history.knows(rounded({"x": 0.9, "y": 0.5})), "it waits"
    told(study, 0.2, broken=1.0)
    told(study, 0.14)
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
        assert history.tried == 5, "all but the pruned one"
        assert all(history.knows(rounded({"x": x, "y": 0.5})) for x in (0.1, 0.2, 0.3, 0.9))
        assert history.knows(rounded(first.params)), "one that failed is not tried again"
        assert history.has_ended(rounded(first.params))
        assert not history.has_ended(rounded({"x": 0.7, "y": 0.5}))
