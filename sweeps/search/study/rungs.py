"""Rungs of a study: the values of its trials at low fidelities and the decisions to continue, stored with each trial.

A driver writes a trial's values before it reads those of others, so that of two concurrent drivers at least the later
one sees both trials. A decision to continue is written before the trial continues; a decision to stop is its outcome.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from sweeps.errors import SweepError
from sweeps.search.study.attributes import RUNGS
from sweeps.search.study.feed import Feed
from sweeps.search.study.record import is_asked, state_of
from sweeps.search.study.trial_state import TrialState


@dataclass(frozen=True)
class Rung:
    """Values of a trial at one fidelity, and why it continued.

    A value that is not finite is None; a standard error of 0 means exact or unknown.
    """

    fidelity: float
    values: tuple[float | None, ...]
    stderrs: tuple[float, ...]
    passed: str | None = None

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> "Rung":
        """Make a rung from its stored form."""
        return cls(float(kept["fidelity"]), tuple(kept["values"]), tuple(kept["stderrs"]), kept.get("passed"))

    @property
    def plain(self) -> dict[str, Any]:
        """The stored form, as JSON values."""
        return {**asdict(self), "values": list(self.values), "stderrs": list(self.stderrs)}


class Rungs:
    """Rungs of one study, for any number of drivers.

    Args:
        study: the Optuna study.
        fidelities: the fidelities below the full one, in order.
        objectives: number of objectives.

    Raises:
        SweepError: the study was searched with other fidelities or objectives.
    """

    def __init__(self, study: optuna.Study, fidelities: Sequence[float], objectives: int) -> None:
        self._study, self._fidelities, self._objectives = study, tuple(fidelities), objectives
        self._feed = Feed()
        self._entries: dict[int, list[Rung]] = {}
        self._refresh()

    def passed(self, trial: optuna.Trial) -> int:
        """Return the number of rungs that a trial has passed, before a retry too."""
        return len(self._before(trial))

    def enter(self, trial: optuna.Trial, values: Sequence[float], stderrs: Sequence[float]) -> list[list[float]]:
        """Write a running trial's values at its next rung; return the values of all other trials there.

        Raises:
            UpdateFinishedTrialError: another driver has finished the trial.
            SweepError: another driver uses other fidelities.
        """
        before = self._before(trial)
        finite = tuple(float(value) if math.isfinite(value) else None for value in values)
        _write(trial, [*before, Rung(self._fidelities[len(before)], finite, tuple(stderrs))])
        self._refresh()
        others = (rungs[len(before)] for number, rungs in self._entries.items()
                  if number != trial.number and len(rungs) > len(before))  # fmt: skip
        return [[math.nan if value is None else value for value in rung.values] for rung in others]

    def go_on(self, trial: optuna.Trial, why: str) -> None:
        """Record that a trial passes the rung it entered last.

        Raises:
            UpdateFinishedTrialError: another driver has finished the trial.
        """
        *before, last = _read(trial.user_attrs)
        _write(trial, [*before, replace(last, passed=why)])

    def _before(self, trial: optuna.Trial) -> list[Rung]:
        return [rung for rung in _read(trial.user_attrs) if rung.passed is not None]

    def _refresh(self) -> None:
        """Read the trials that have changed; the rungs of a retried trial belong to the trial queued for it."""
        trials = self._study.get_trials(deepcopy=False)
        for trial in self._feed.read(len(trials), trials.__getitem__):
            rungs = _read(trial.user_attrs)
            if rungs and is_asked(trial) and state_of(trial) != TrialState.RETRIED:
                self._check(rungs)
                self._entries[trial.number] = rungs
            else:
                self._entries.pop(trial.number, None)

    def _check(self, rungs: Sequence[Rung]) -> None:
        found, known = [rung.fidelity for rung in rungs], list(self._fidelities)
        if found != known[: len(found)] or any(len(rung.values) != self._objectives for rung in rungs):
            raise SweepError(
                f"study {self._study.study_name} was searched with other fidelities or objectives: "
                f"{len(rungs[0].values)} values at fidelities {found}, not {self._objectives} at {known}; "
                "choose another name, or restore the old settings"
            )


def passed_on(trial: FrozenTrial) -> dict[str, Any]:
    """Return the attributes that a retry inherits from its retried trial: the rungs it has passed."""
    passed = [rung.plain for rung in _read(trial.user_attrs) if rung.passed is not None]
    return {RUNGS: passed} if passed else {}


def _read(attributes: Mapping[str, Any]) -> list[Rung]:
    return [Rung.of(kept) for kept in attributes.get(RUNGS, ())]


def _write(trial: optuna.Trial, rungs: Sequence[Rung]) -> None:
    trial.set_user_attr(RUNGS, [rung.plain for rung in rungs])
