"""The driver: a loop of ask, submit and tell, until all trials are done, a limit is reached or the user stops.

`sweeps.search` and `python -m sweeps.run` use this loop. It is asynchronous: a free worker gets the next trial at once,
proposed from all results so far.
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
"""Equal failures in a row after which the cause is not in the trials."""


def drive(
    ledger: Ledger,
    trials: int,
    executor: Executor,
    stopping: Stopping,
    interrupts: Interrupts,
    say: Callable[[str], None],
    exhausted: Callable[[], str],
) -> str | None:
    """Run a study until `trials` trials have finished; return why it ended earlier, or None.

    Args:
        ledger: ledger of the study.
        trials: number of trials to finish, those of earlier runs included.
        executor: executor of the trials; it is closed at the end.
        stopping: rule that ends the study early; it has seen every record in the ledger.
        interrupts: guard that lets a signal in only while the executor works, so that no trial is half recorded.
        say: function that prints a message about a trial without a result.
        exhausted: function that explains why nothing is left to try.

    Raises:
        Stopped, KeyboardInterrupt: from `interrupts`; running trials are closed and queued for a retry, ahead of new
            proposals.
        SweepError: too many trials in a row failed the same way; finished trials are kept.
    """
    why, before = None, len(ledger.records)
    try:
        while True:
            interrupts.check()
            if ledger.reclaim():
                why = None  # the queued retry runs, even if the search was exhausted
            while executor.free and (task := ledger.released()) is not None:
                executor.submit(ledger.job(task))
            while executor.free and why is None:
                others = ledger.take_in_others()
                if ledger.finished + ledger.under_way + others >= trials:
                    if others and not ledger.under_way and ledger.reclaim(every=0.0):
                        continue  # one of them has died, and its trial is queued again
                    if others and not ledger.under_way and ledger.finished < trials:
                        verb = "is" if others == 1 else "are"
                        why = f"{plural(others, 'trial')} {verb} still running in other processes"
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
            finally:  # outside `allowed()`, so that no signal leaves a trial half recorded
                _end_all(ledger, ended, say)
            if any(each.state == TrialState.RETRIED for each in ended):
                why = None  # its vector is queued again, even if the search was exhausted
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
    """Record the end of each job, then raise the first error."""
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
        say(f"trial {ended.number}: another driver has finished it; its result here is dropped")
        return
    if record is not None and record.state.is_failure:
        say(f"trial {record.number} {record.state}: {record.error}")
    elif record is not None and record.state == TrialState.RETRIED:
        say(f"trial {record.number}: {record.error}; retrying")


def _give_up_on_equal_failures(ledger: Ledger, before: int) -> None:
    """Raise SweepError if the last trials of this run failed the same way."""
    of_this_run = islice(reversed(ledger.records), len(ledger.records) - before)
    last = list(islice((record for record in of_this_run if record.state != TrialState.RETRIED), MOST_EQUAL_FAILURES))
    if len(last) < MOST_EQUAL_FAILURES:
        return
    if len(set(map(_kind, last))) == 1 and last[0].state.is_failure:
        raise SweepError(f"stopping: the last {MOST_EQUAL_FAILURES} trials failed the same way: {last[0].error}")


def _kind(record: Record) -> tuple[str, str]:
    """Return a key that is equal for equal failures; the errors of failed trials may differ in numbers."""
    error = record.error or ""
    return record.state, cause(error) if record.state == TrialState.FAILED else error
