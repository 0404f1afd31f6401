"""The driver: ask, hand out, tell, until the trials are done, a limit is reached or the user stops.

`sweeps.search` and the Hydra entry run this loop. It waits for no batch: whoever is free gets the next trial, which is
proposed by all that is known then.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

from optuna.exceptions import UpdateFinishedTrialError

from analysis.wording import plural
from sweeps.errors import SweepError
from sweeps.search.execution.executors import Executor
from sweeps.search.execution.interrupts import Interrupts
from sweeps.search.execution.ledger import Ledger
from sweeps.search.execution.stopping import Stopping
from sweeps.search.execution.work import Told
from sweeps.search.study.failures import cause
from sweeps.search.study.point import Ended
from sweeps.search.study.record import Record
from sweeps.search.study.trial_state import TrialState

MOST_EQUAL_FAILURES = 5
"""After this many trials in a row that fail alike, the cause is not in the trials."""


def drive(
    ledger: Ledger,
    trials: int,
    executor: Executor,
    stopping: Stopping,
    interrupts: Interrupts,
    say: Callable[[str], None],
    exhausted: Callable[[], str],
) -> str | None:
    """Run a study until this many of its trials are finished in all; return why it ended earlier, if it did.

    Args:
        ledger: of the study.
        trials: in all, those of earlier runs included.
        executor: does them; it is closed at the end.
        stopping: what else ends the study; it has been told of every record in the ledger.
        interrupts: let a signal in only while the executor works, so that no trial is left half told.
        say: tells the user of trials that gave nothing.
        exhausted: why nothing is left to try.

    Raises:
        Stopped, KeyboardInterrupt: by `interrupts`; the trials in progress are closed and queued again, before
            anything new is drawn.
        SweepError: too many trials in a row failed alike; what finished is kept.
    """
    why, before = None, len(ledger.records)
    try:
        while True:
            interrupts.check()
            if ledger.reclaim():
                why = None  # what waits again is tried, also where nothing was left before
            while executor.free and (task := ledger.released()) is not None:
                executor.submit(ledger.job(task))
            while executor.free and why is None:
                others = ledger.take_in_others()
                if ledger.finished + ledger.under_way + others >= trials:
                    if others and not ledger.under_way and ledger.reclaim(every=0.0):
                        continue  # one of them has died, and its trial waits again
                    if others and not ledger.under_way and ledger.finished < trials:
                        why = f"other processes are at {plural(others, 'trial')} of it"
                    break
                why = stopping.reason
                task = ledger.ask() if why is None else None
                if task is not None:
                    executor.submit(ledger.job(task))
                elif why is None and ledger.exhausted and not ledger.reclaim(every=0.0):
                    why = exhausted()
            if not ledger.under_way:
                return why
            ended: list[Ended] = []
            try:
                with interrupts.allowed():
                    executor.work(partial(_take, ledger, ended))
            finally:  # outside of it, so that no signal leaves a trial half told
                _end_all(ledger, ended, say)
            if any(each.state == TrialState.RETRIED for each in ended):
                why = None  # its vector waits again, also where nothing was left before
            if ended:
                _give_up_on_equal_failures(ledger, before)
    finally:
        try:
            executor.close()
        finally:
            ledger.put_all_back("stopped before it was finished")


def _take(ledger: Ledger, ended: list[Ended], told: Told) -> None:
    if isinstance(told, Ended):
        ended.append(told)
    else:
        ledger.measured(told)


def _end_all(ledger: Ledger, ended: Sequence[Ended], say: Callable[[str], None]) -> None:
    """End every one of them, then raise what went wrong with the first."""
    problems = []
    for each in ended:
        try:
            _end(ledger, each, say)
        except BaseException as problem:
            problems.append(problem)
    if problems:
        raise problems[0]


def _end(ledger: Ledger, ended: Ended, say: Callable[[str], None]) -> None:
    try:
        record = ledger.end(ended)
    except UpdateFinishedTrialError:
        say(f"trial {ended.number} was finished by another driver meanwhile")
        return
    if record is not None and (record.state.is_failure or record.state == TrialState.RETRIED):
        say(f"trial {record.number} {record.state}: {record.error}")


def _give_up_on_equal_failures(ledger: Ledger, before: int) -> None:
    """Raise where the last trials failed alike, those aside that were known when this run began."""
    of_this_run = islice(reversed(ledger.records), len(ledger.records) - before)
    last = list(islice((record for record in of_this_run if record.state != TrialState.RETRIED), MOST_EQUAL_FAILURES))
    if len(last) < MOST_EQUAL_FAILURES:
        return
    if len(set(map(_kind, last))) == 1 and last[0].state.is_failure:
        raise SweepError(f"{MOST_EQUAL_FAILURES} trials in a row ended alike, so the search stops: {last[0].error}")


def _kind(record: Record) -> tuple[str, str]:
    """Return what is equal for trials that ended alike; infeasible vectors often differ in numbers alone."""
    error = record.error or ""
    return record.state, cause(error) if record.state == TrialState.FAILED else error
