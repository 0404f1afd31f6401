"""Other drivers of the same study: their finished and running trials, and precedence between equal proposals."""

import math
import time
from collections.abc import Collection, Hashable, Iterator

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeps.search.problem import Problem
from sweeps.search.study.attributes import OWNER, RETRY_OF
from sweeps.search.study.feed import Feed
from sweeps.search.study.record import is_asked

CLAIMED_WITHIN = 1.0
"""Seconds in which a driver claims what it has drawn; storages under load take some hundredths of one."""


class Others:
    """View of the trials of other drivers in a shared study; a trial that has ended is seen once.

    Args:
        study: the Optuna study.
        problem: the search problem.
    """

    def __init__(self, study: optuna.Study, problem: Problem) -> None:
        self._study, self._problem = study, problem
        self._feed = Feed()
        self.at_work: list[FrozenTrial] = []
        """Running trials of other drivers at the last `look`."""

    def look(self, mine: Collection[int]) -> Iterator[FrozenTrial]:
        """Read the study; return the evaluated trials that have ended since the last `look`.

        Args:
            mine: numbers of the running trials of this driver.
        """
        trials = self._study.get_trials(deepcopy=False)
        changed = self._feed.read(len(trials), trials.__getitem__)
        self.at_work = [t for t in changed if t.state == TrialState.RUNNING and t.number not in mine]
        return (trial for trial in changed if trial.state.is_finished() and is_asked(trial))

    def why_too_many(self, number: int, key: Hashable) -> str | None:
        """Return why a trial claimed here is redundant, or None; call `look` after the claim and before this.

        Drivers that propose at the same moment may propose the same vector: the first claim wins. Two drivers that find
        a dead trial may both queue a retry: one retry is enough.
        """
        trials = self._study.get_trials(deepcopy=False)
        own = trials[number]
        for other in self.at_work:
            whole = other.params.keys() == self._problem.space.keys()
            same = whole and self._problem.canonical(other.params) == key
            if same and _claimed(self._when_claimed(other)) < _claimed(own):
                return f"trial {other.number} is evaluating the same model"
        if (of := own.user_attrs.get(RETRY_OF)) is not None:
            before = (trial for trial in trials[:number] if trial.user_attrs.get(RETRY_OF) == of)
            if any(trial.state != TrialState.WAITING for trial in before):
                return f"trial {of} was queued twice for a retry"
        return None

    def _when_claimed(self, trial: FrozenTrial) -> FrozenTrial:
        """Wait until a trial that another driver has drawn is claimed: its claim may be the earlier one.

        A driver that died before its claim is waited for `CLAIMED_WITHIN`.
        """
        until = time.monotonic() + CLAIMED_WITHIN
        while OWNER not in trial.user_attrs and not trial.state.is_finished() and time.monotonic() < until:
            time.sleep(0.01)
            trial = self._study.get_trials(deepcopy=False)[trial.number]
        return trial


def _claimed(trial: FrozenTrial) -> tuple[float, int]:
    """Return a sort key by the time of the claim; unclaimed trials come last."""
    owner = trial.user_attrs.get(OWNER, {})
    return float(owner.get("claimed", math.inf)), trial.number
