"""Who runs a trial, and what becomes of one whose process died: it is tried again, so often and no more."""

import logging
import os
import platform
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from weakref import WeakSet

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial

from sweeps.search.study.attributes import ATTEMPTS, OWNER, RETRY_OF
from sweeps.search.study.point import Ended, Point
from sweeps.search.study.record import abandon_other, is_intermediate
from sweeps.search.study.rungs import passed_on
from sweeps.search.study.trial_state import TrialState

logger = logging.getLogger(__name__)

_MINE: WeakSet[optuna.Trial] = WeakSet()
"""What this process has claimed and still holds on to."""
_RENEWED: WeakSet[optuna.Trial] = WeakSet()
"""Of those, what other hosts may ask about."""
_RENEWER = "kmr-leases"
_ONCE = threading.Lock()
MOST_ATTEMPTS = 3
"""How often a trial is tried whose process dies."""
LEASE = 2 * 3600
"""Seconds after which a trial of another host is taken for dead, unless its process has renewed the lease."""
_RENEW_EVERY = 600
GRACE = 120
"""Seconds in which a trial that names no owner may be one that is being drawn: a search for a new vector takes half."""


def claim(study: optuna.Study, trial: optuna.Trial, *, renewed: bool = False) -> int:
    """Say who runs a trial, so that another run can tell whether it is still alive; return the trial's number.

    With `renewed`, a thread renews the lease for as long as this process holds on to the trial.
    """
    number = _number(study.get_trials(deepcopy=False)[: trial.number])
    owner = {
        "number": number,
        "host": platform.node(),
        "pid": os.getpid(),
        "born": _born(os.getpid()),
        "claimed": time.time(),
        "expires": time.time() + LEASE,
    }
    trial.set_user_attr(OWNER, owner)
    _MINE.add(trial)
    if renewed:
        with _ONCE:
            _RENEWED.add(trial)
        _start_renewing()
    return number


def renew() -> None:
    """Renew the leases of what this process is at; what has ended is let go of."""
    with _ONCE:
        held = list(_RENEWED)
    for trial in held:
        storage, number = trial.study._storage, trial._trial_id
        try:
            owner = storage.get_trial(number).user_attrs[OWNER]
            storage.set_trial_user_attr(number, OWNER, {**owner, "expires": time.time() + LEASE})
        except (UpdateFinishedTrialError, KeyError):
            with _ONCE:
                _RENEWED.discard(trial)
        except Exception as error:  # the storage is away for a moment: the next time will do
            logger.warning("the lease of trial %d could not be renewed: %s", trial.number, error)


def _start_renewing() -> None:
    def keep_renewing() -> None:
        while True:
            time.sleep(_RENEW_EVERY)
            renew()

    with _ONCE:
        if not any(thread.name == _RENEWER for thread in threading.enumerate()):
            threading.Thread(target=keep_renewing, name=_RENEWER, daemon=True).start()


def _number(before: Sequence[FrozenTrial]) -> int:
    """Return how many of these were asked for, counted back to the last whose number is known."""
    asked = 0
    for trial in reversed(before):
        if OWNER in trial.user_attrs:
            return int(trial.user_attrs[OWNER]["number"]) + 1 + asked
        asked += not is_intermediate(trial)
    return asked


def put_back(
    study: optuna.Study,
    trial: optuna.Trial | FrozenTrial,
    error: str,
    points: Sequence[Point] = (),
    seconds: float = 0.0,
    *,
    count: bool = True,
) -> bool:
    """Close a trial that did not get to its end, and queue its vector again, before anything new is drawn.

    Args:
        study: of the trial.
        trial: running.
        error: what happened to it.
        points: what it had measured.
        seconds: it ran.
        count: whether this is an attempt that went wrong; after `MOST_ATTEMPTS` of those the trial has failed.

    Returns:
        Whether it is tried again.

    Raises:
        UpdateFinishedTrialError: another driver has finished it.
    """
    frozen = study.get_trials(deepcopy=False)[trial.number]
    if frozen.state.is_finished():
        raise UpdateFinishedTrialError(f"trial {trial.number} has been finished by another driver")
    attempts = int(frozen.user_attrs.get(ATTEMPTS, 0)) + count
    again = attempts < MOST_ATTEMPTS
    why = error if again else f"given up after {attempts} attempts: {error}"
    state = TrialState.RETRIED if again else TrialState.FAILED
    # One whose process died while it was drawn has no parameters yet, but its vector where it was enqueued. It is in
    # the queue before the trial is closed, so that to die between the two loses nothing.
    vector = {**frozen.system_attrs.get("fixed_params", {}), **frozen.params}
    if again and vector and not _waits(study, vector):
        more = {ATTEMPTS: attempts, RETRY_OF: trial.number, **passed_on(frozen)}
        study.enqueue_trial(vector, user_attrs=more)
    abandon_other(study, frozen, points, Ended(trial.number, state, why, seconds))
    return again


def put_back_drawn_since(study: optuna.Study, started: datetime) -> None:
    """Close a trial whose draw broke off: nobody has claimed it yet."""
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if OWNER not in trial.user_attrs and trial.datetime_start is not None and trial.datetime_start >= started:
            with suppress(UpdateFinishedTrialError):
                put_back(study, trial, "interrupted while it was drawn", count=False)


def _waits(study: optuna.Study, vector: Mapping[str, Any]) -> bool:
    waiting = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
    return vector in (each.system_attrs.get("fixed_params") for each in waiting)


def reclaim(study: optuna.Study, alone: bool, grace: float = GRACE) -> int:
    """Fail the trials a dead run left running and queue their vectors again; return how many.

    Args:
        study: at its start.
        alone: no other run can be at work in this study, so that whatever is running was left by a dead one.
        grace: seconds in which a trial that names no owner is taken to be drawn at the moment.
    """
    running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    stale = [trial for trial in running if alone or not _may_be_alive(trial, grace)]
    reclaimed = 0
    for trial in stale:
        try:
            put_back(study, trial, "the run ended before it")
        except UpdateFinishedTrialError:  # another driver reclaimed it at the same time
            continue
        reclaimed += 1
    return reclaimed


def _may_be_alive(trial: FrozenTrial, grace: float) -> bool:
    owner = trial.user_attrs.get(OWNER)
    if owner is None:
        age = (datetime.now() - trial.datetime_start).total_seconds() if trial.datetime_start else LEASE
        return age < grace
    if owner["host"] != platform.node():
        return time.time() < float(owner.get("expires", 0.0))
    # On this machine the process itself is asked, so that a clock that jumps ends no lease.
    if owner["pid"] == os.getpid():
        return any((t.number, t.datetime_start) == (trial.number, trial.datetime_start) for t in list(_MINE))
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return owner.get("born") in (None, _born(owner["pid"]))


def _born(pid: int) -> str | None:
    """Return when a process began, in the system's own count, which tells it from a later one of the same id."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None
