"""Of two drivers that draw one vector, one evaluates it, however slow its claim is to arrive."""

import time

import optuna
import pytest
from optuna.distributions import IntDistribution

from kmr.core import IntRange
from sweeps.search.problem import Problem
from sweeps.search.study.attributes import OWNER
from sweeps.search.study.lease import claim
from sweeps.search.study.peers import CLAIMED_WITHIN, Others

optuna.logging.set_verbosity(optuna.logging.ERROR)
PROBLEM = Problem({"x": IntRange(0, 9, neutral=0)}, {"cost": "minimize"})


def draw(study: optuna.Study) -> optuna.Trial:
    study.enqueue_trial({"x": 3})
    return study.ask({"x": IntDistribution(0, 9)})


@pytest.mark.parametrize(("earlier", "is_dropped"), [(True, True), (False, False)])
def test_a_claim_that_is_on_its_way_is_waited_for(monkeypatch, earlier: bool, is_dropped: bool) -> None:
    study = optuna.create_study()
    theirs, mine = draw(study), draw(study)
    claim(study, mine)
    when = time.time() + (-1.0 if earlier else 1.0)
    monkeypatch.setattr(time, "sleep", lambda _: theirs.set_user_attr(OWNER, {"number": 0, "claimed": when}))
    others = Others(study, PROBLEM)
    assert list(others.look([mine.number])) == []
    why = others.why_too_many(mine.number, PROBLEM.canonical({"x": 3}))
    assert why == ("trial 0 is evaluating the same model" if is_dropped else None)


def test_a_driver_that_died_before_its_claim_is_not_waited_for_long() -> None:
    study = optuna.create_study()
    draw(study)
    mine = draw(study)
    claim(study, mine)
    others = Others(study, PROBLEM)
    assert list(others.look([mine.number])) == []
    started = time.monotonic()
    assert others.why_too_many(mine.number, PROBLEM.canonical({"x": 3})) is None
    assert CLAIMED_WITHIN <= time.monotonic() - started < CLAIMED_WITHIN + 2
