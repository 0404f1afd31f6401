"""The search as a library (`from sweeps import search`) over any function or table of readings; no model is needed.

`python -m sweeps.run` uses the same driver (`sweeps.search.execution.driver`) and the same ledger
(`sweeps.search.execution.ledger`) for a model's trials.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any

from kmr.core import Direction
from sweeps.errors import SweepError, unknown
from sweeps.search.ask_tell import Search
from sweeps.search.evaluator import Evaluate, FunctionWork, halving_of
from sweeps.search.execution.driver import drive
from sweeps.search.execution.executors import Executor, InProcess, LocalProcesses
from sweeps.search.execution.halving import EarlyStopping, Halving
from sweeps.search.execution.interrupts import ctrl_c
from sweeps.search.execution.work import Work
from sweeps.search.problem import StaticCosts
from sweeps.search.result import SearchResult, TrialResult, result_of
from sweeps.search.space import Space
from sweeps.search.tables import Table, as_function, columns

logger = logging.getLogger(__name__)

_RENAMED = {"budget": "trials", "constraints": "limits"}
"""Names of arguments up to version 0.1, and their new names."""


def search(
    space: Space,
    evaluate: Evaluate | Table,
    objectives: Mapping[str, Direction],
    limits: Mapping[str, float] | None = None,
    trials: int = 100,
    *,
    static_costs: StaticCosts | Sequence[str] | None = None,
    fidelities: Halving | Sequence[float] | None = None,
    workers: int = 1,
    executor: Callable[[Work], Executor] | None = None,
    on_trial: Callable[[TrialResult], None] | None = None,
    **settings: Any,
) -> SearchResult:
    """Search a space until the study holds `trials` evaluated vectors.

        >>> from kmr.core import Choice, IntRange
        >>> from sweeps import search
        >>> found = search(
        ...     {"width": IntRange(1, 64, neutral=64), "bits": Choice((32, 8, 4), neutral=32)},
        ...     evaluate=lambda knobs: {"accuracy": 1 - 1 / (knobs["width"] * knobs["bits"])},
        ...     objectives={"bytes": "minimize", "accuracy": "maximize"},
        ...     limits={"bytes": 100},
        ...     trials=20,
        ...     static_costs=lambda knobs: {"bytes": knobs["width"] * knobs["bits"] / 8},
        ... )
        >>> found.counts.complete, all(trial.readings["bytes"] <= 100 for trial in found.front)
        (20, True)

    Args:
        space: the domain of each knob.
        evaluate: function from a vector to readings by name, or a table of readings: a data frame with a column for
            each knob and meter, or a mapping from tuples of values, in the order of the space, to readings. A
            `kmr.core.Reading` has a standard error. An exception fails the trial; five equal failures in a row end
            the search.
        objectives: `minimize` or `maximize` for each meter.
        limits: the smallest value allowed for a meter to maximise; the largest for any other meter.
        trials: number of evaluations, failed and early-stopped ones included; a resumed study continues to this total.
        static_costs: function that reads the costs known exactly before training, so that infeasible vectors cost no
            training; for a table, the names of its columns. It is called for hundreds of candidates per proposal: keep
            it well under a millisecond, or pass `screening=None`.
        fidelities: rising shares of a full evaluation, ending in 1, or a
            `sweeps.search.execution.halving.Halving` with all settings. `evaluate` is then called with the vector and
            each share in turn, until the trial is stopped early. The study keeps the decisions for later runs and
            other processes.
        workers: number of local processes that evaluate; more than one requires an `evaluate` that can be pickled, and
            a script that searches only under `if __name__ == "__main__"`.
        executor: function from the work to an `Executor` that does it, in place of `workers`; see
            `sweeps.search.execution.executors.Executor`.
        on_trial: callback for each trial that ends.
        settings: `canonical`, a function that is equal for vectors of the same model, which is trained once;
            `sampler`, an Optuna sampler in place of the one from
            `sweeps.search.proposals.choose_sampler.pick_sampler`; `screening`, a `Screening`, None for none, or True
            to decide by the problem; `start`, the first vectors in place of
            `sweeps.search.proposals.initial.anchors`; `seed`; `storage`, an Optuna storage or its URL, and `name`,
            which keep the study; `stop`, a `sweeps.search.execution.stopping.Stop` with limits on time, on training
            time, or on trials without progress; `identity`, a JSON mapping of what else must be equal for a study to
            be resumed, such as a digest of the weights and of the training recipe.

    Returns:
        The result; its `ended` gives the reason for an early end.

    Raises:
        SweepError: the problem is invalid, the study in the storage has another problem, or evaluations keep failing
            the same way.
        KeyboardInterrupt: Ctrl-C; running trials are queued for a retry. A second Ctrl-C acts at once.
    """
    if isinstance(static_costs, Sequence):
        static_costs = columns(evaluate, space, static_costs)
    function = evaluate if callable(evaluate) else as_function(evaluate, space)
    halving = halving_of(fidelities)
    if not 1 <= workers <= 1024:
        raise SweepError(f"workers must be between 1 and 1024, not {workers}")
    arguments = tuple(dict.fromkeys((*signature(search).parameters, *signature(Search).parameters)))
    if misnamed := [name for name in settings if name not in signature(Search).parameters]:
        raise TypeError(f"search() takes no {misnamed[0]}{unknown(misnamed[0], arguments, names_now=_RENAMED)}")
    read = getattr(function, "objectives", None)
    if isinstance(read, Mapping) and (unread := [n for n in (*objectives, *(limits or {})) if n not in read]):
        raise SweepError(f"there is no meter {', '.join(unread)}: there are {', '.join(read)}")
    run = Search(space, objectives, limits, trials, static_costs=static_costs, **settings)
    run.watcher.on_trial = on_trial
    if executor is None:
        executor = InProcess if workers == 1 else partial(LocalProcesses, count=workers)
    if halving is not None:
        run.ledger.early_stopping = EarlyStopping(run.study, halving, run.problem.objectives)
    with ctrl_c() as interrupts:
        fidelities = () if halving is None else halving.fidelities
        work = FunctionWork(function, run.problem.objectives, tuple(run.problem.limits), fidelities)
        ended = drive(
            run.ledger, trials, executor(work), run.watcher.stopping, interrupts, logger.warning,
            lambda: "no new feasible vector is left",
        )  # fmt: skip
    if interrupts.pending:
        logger.warning("Ctrl-C arrived after the search had finished; the result is complete")
    return result_of(run.study, run.problem, ended)


__all__ = ["search"]
