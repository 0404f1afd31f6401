"""Leases of running trials, and a limited number of retries for a trial whose process died."""

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
"""Trials that this process has claimed and still references."""
_RENEWED: WeakSet[optuna.Trial] = WeakSet()
"""Claimed trials whose lease is renewed for drivers on other hosts."""
_RENEWER = "kmr-leases"
_ONCE = threading.Lock()
MOST_ATTEMPTS = 3
"""Number of attempts at a trial whose process keeps dying."""
LEASE = 2 * 3600
"""Seconds after which a trial on another host counts as dead, unless its process has renewed the lease."""
_RENEW_EVERY = 600
GRACE = 120
"""Seconds that a trial may take from its proposal to its claim; a search for a new vector takes up to half of them."""


def claim(study: optuna.Study, trial: optuna.Trial, *, renewed: bool = False) -> int:
    """Record this process as a trial's owner, so that others can check whether it is alive; return the trial's number.

    With `renewed`, a thread renews the lease as long as this process references the trial.
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
    """Renew the leases of this process's running trials; drop those that have ended."""
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
        except Exception as error:  # the storage may be unreachable for a moment; the next renewal is soon enough
            logger.warning("cannot renew the lease of trial %d: %s; trying again later", trial.number, error)


def _start_renewing() -> None:
    def keep_renewing() -> None:
        while True:
            time.sleep(_RENEW_EVERY)
            renew()

    with _ONCE:
        if not any(thread.name == _RENEWER for thread in threading.enumerate()):
            threading.Thread(target=keep_renewing, name=_RENEWER, daemon=True).start()


def _number(before: Sequence[FrozenTrial]) -> int:
    """Return the number of the trial after these, counted from the last trial whose number is known."""
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
    """Close an unfinished trial and queue its vector for a retry, ahead of new proposals.

    Args:
        study: the trial's study.
        trial: a running trial.
        error: why it did not finish.
        points: the models it had measured.
        seconds: how long it ran.
        count: whether this counts as a failed attempt; after `MOST_ATTEMPTS` of them the trial fails.

    Returns:
        Whether the trial is retried.

    Raises:
        UpdateFinishedTrialError: another driver has finished the trial.
    """
    frozen = study.get_trials(deepcopy=False)[trial.number]
    if frozen.state.is_finished():
        raise UpdateFinishedTrialError(f"trial {trial.number} has been finished by another driver")
    attempts = int(frozen.user_attrs.get(ATTEMPTS, 0)) + count
    again = attempts < MOST_ATTEMPTS
    why = error if again else f"given up after {attempts} attempts: {error}"
    state = TrialState.RETRIED if again else TrialState.FAILED
    # A trial whose process died while it was being proposed has no parameters yet; an enqueued one has its vector. The
    # vector is queued before the trial is closed, so that dying between the two loses nothing.
    vector = {**frozen.system_attrs.get("fixed_params", {}), **frozen.params}
    if again and vector and not _waits(study, vector):
        more = {ATTEMPTS: attempts, RETRY_OF: trial.number, **passed_on(frozen)}
        study.enqueue_trial(vector, user_attrs=more)
    abandon_other(study, frozen, points, Ended(trial.number, state, why, seconds))
    return again


def put_back_drawn_since(study: optuna.Study, started: datetime) -> None:
    """Close the unclaimed trial of an interrupted proposal."""
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if OWNER not in trial.user_attrs and trial.datetime_start is not None and trial.datetime_start >= started:
            with suppress(UpdateFinishedTrialError):
                put_back(study, trial, "stopped while it was proposed", count=False)


def _waits(study: optuna.Study, vector: Mapping[str, Any]) -> bool:
    waiting = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
    return vector in (each.system_attrs.get("fixed_params") for each in waiting)


def reclaim(study: optuna.Study, alone: bool, grace: float = GRACE) -> int:
    """Close the running trials of dead processes and queue their vectors for a retry; return how many.

    Args:
        study: the study.
        alone: whether no other process can work on this study, so that every running trial is of a dead process.
        grace: seconds in which a trial without an owner counts as being proposed.
    """
    running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    stale = [trial for trial in running if alone or not _may_be_alive(trial, grace)]
    reclaimed = 0
    for trial in stale:
        try:
            put_back(study, trial, "its process ended first")
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
    # On the same host, check the process itself, so that a clock jump ends no lease.
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
    """Return the start time of a process in clock ticks, which distinguishes it from a later process with its id."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None
