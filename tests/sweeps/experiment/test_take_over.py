"""Taking over the trials of a study with another space: once each, whatever stops it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import create_trial

from kmr.core import IntRange
from sweeps.experiment.take_over import take_over
from sweeps.search.space import distributions
from sweeps.search.study.attributes import BASE, IDENTITY, OUTCOME, OWNER
from sweeps.search.study.record import records
from sweeps.search.study.storage import open_storage

OLD = {"width": IntRange(0, 9, neutral=0), "depth": IntRange(0, 9, neutral=0)}
NARROW = {**OLD, "depth": IntRange(0, 4, neutral=0)}


class Knob:
    """A knob that is neutral at 0."""

    def __init__(self, name: str) -> None:
        self.name = name

    def is_neutral(self, value: object) -> bool:
        return value == 0


EXPERIMENT: Any = SimpleNamespace(
    config=SimpleNamespace(reuse="old", storage=None, limits={}),
    searches_policy=False,
    identity={"seed": 0, "space": "narrow"},
    instantiation=SimpleNamespace(knobs=[Knob(name) for name in OLD], costs=(), qualities=()),
    space=NARROW,
    objectives=(),
)


def point(*moves: tuple[str, int]) -> dict[str, Any]:
    return {"step": len(moves), "sequence": [list(move) for move in moves], "readings": {"bytes": [1.0, None]}}


def measured(number: int, params: dict[str, int], *points: dict[str, Any], served_from: int | None = None) -> Any:
    return create_trial(
        values=[1.0],
        params=params,
        distributions=distributions(OLD),
        user_attrs={
            OWNER: {"number": number},
            OUTCOME: {"state": "complete", "points": list(points), "served_from": served_from},
        },
    )


def study_in(folder: Path) -> optuna.Study:
    return optuna.create_study(study_name=folder.name, storage=open_storage(None, folder), load_if_exists=True)


@pytest.fixture
def old(tmp_path: Path) -> optuna.Study:
    """Return a study whose first trial does not fit, and two of whose others were served."""
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    study = study_in(tmp_path / "old")
    study.set_user_attr(IDENTITY, {"seed": 0, "space": "old"})
    study.set_user_attr(BASE, point())
    wide = ("width", 5)
    study.add_trial(measured(0, {"width": 5, "depth": 9}, point(wide), point(wide, ("depth", 9))))
    study.add_trial(measured(1, {"width": 3, "depth": 0}, point(("width", 3))))
    study.add_trial(measured(2, {"width": 5, "depth": 0}, point(wide), served_from=0))
    study.add_trial(measured(3, {"width": 3, "depth": 0}, point(("width", 3)), served_from=1))
    return study


def taken(study: optuna.Study) -> list[tuple[int, int, int | None]]:
    return [(record.number, int(record.params["width"]), record.duplicate_of) for record in records(study)]


ALL = [(0, 3, None), (1, 5, None), (2, 3, 0)]


def test_what_was_served_from_a_trial_is_so_under_its_new_number_or_stands_on_its_own(old, tmp_path) -> None:
    new = study_in(tmp_path / "new")
    assert take_over(new, EXPERIMENT, tmp_path / "new") == (3, 4)
    assert taken(new) == ALL
    assert all(record.points for record in records(new))
    assert take_over(new, EXPERIMENT, tmp_path / "new") is None
    assert len(new.trials) == 3


def stop(study: optuna.Study, name: str, call: int, patch: pytest.MonkeyPatch, when: str = "after") -> None:
    """Let Ctrl-C come before or after a call of a method of the study."""
    real, calls = getattr(study, name), 0

    def stopped(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls < call or when == "after":
            real(*args)
        if calls == call:
            raise KeyboardInterrupt

    patch.setattr(study, name, stopped)


@pytest.mark.parametrize(
    ("name", "call", "when"),
    [
        ("set_user_attr", 1, "after"), ("add_trial", 1, "before"), ("add_trial", 1, "after"), ("add_trial", 2, "after"),
        ("add_trial", 3, "after"), ("set_user_attr", 2, "after"),
    ],
)  # fmt: skip
def test_it_goes_on_where_it_was_stopped(old, tmp_path, monkeypatch, name: str, call: int, when: str) -> None:
    new = study_in(tmp_path / "new")
    stop(new, name, call, monkeypatch, when)
    with pytest.raises(KeyboardInterrupt):
        take_over(new, EXPERIMENT, tmp_path / "new")
    again = study_in(tmp_path / "new")
    assert take_over(again, EXPERIMENT, tmp_path / "new") == (None if (name, call) == ("set_user_attr", 2) else (3, 4))
    assert taken(again) == ALL
    assert take_over(again, EXPERIMENT, tmp_path / "new") is None


def test_a_trial_that_ends_in_the_old_study_meanwhile_is_taken_once_too(tmp_path, monkeypatch) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    old, new = study_in(tmp_path / "old"), study_in(tmp_path / "new")
    old.set_user_attr(IDENTITY, {"seed": 0, "space": "old"})
    old.set_user_attr(BASE, point())
    old.enqueue_trial({"width": 1, "depth": 0})
    running = old.ask(distributions(OLD))
    first = measured(0, {"width": 1, "depth": 0}, point(("width", 1))).user_attrs
    for number in (1, 2):
        old.add_trial(measured(number, {"width": 5 + number, "depth": 0}, point(("width", 5 + number))))
    stop(new, "add_trial", 1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        take_over(new, EXPERIMENT, tmp_path / "new")
    for key, value in first.items():
        running.set_user_attr(key, value)
    old.tell(running, 1.0)
    again = study_in(tmp_path / "new")
    assert take_over(again, EXPERIMENT, tmp_path / "new") == (3, 3)
    assert taken(again) == [(0, 6, None), (1, 1, None), (2, 7, None)]


def test_a_study_that_took_over_before_this_was_marked_is_left_as_it_is(old, tmp_path) -> None:
    new = study_in(tmp_path / "new")
    trial = measured(0, {"width": 3, "depth": 0}, point(("width", 3)))
    trial.user_attrs[OWNER]["study"] = "old"
    new.add_trial(trial)
    new.add_trial(measured(1, {"width": 1, "depth": 0}, point(("width", 1))))
    assert take_over(new, EXPERIMENT, tmp_path / "new") is None
    assert taken(new) == [(0, 3, None), (1, 1, None)]


def test_a_study_with_trials_of_its_own_takes_over_none(old, tmp_path) -> None:
    new = study_in(tmp_path / "new")
    new.add_trial(measured(0, {"width": 3, "depth": 0}, point(("width", 3))))
    assert take_over(new, EXPERIMENT, tmp_path / "new") is None
    assert taken(new) == [(0, 3, None)]
