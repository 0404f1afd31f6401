"""States of a trial: one enum for storage, results table, report, MLflow, terminal and library."""

from enum import StrEnum

import optuna

from analysis.renamed_states import RENAMED


class TrialState(StrEnum):
    """State of a trial; the value is the word a user reads and types.

    ::

        waiting ──► running ──► complete        it was evaluated at full fidelity
           ▲           ├──────► early-stopped   halving stopped it at a low fidelity
           │           ├──────► infeasible      it breaks a limit or cannot be applied
           │           ├──────► duplicate       its model is known: it has the readings of another trial
           │           ├──────► failed          its evaluation raised an error, or its worker died every time
           │           └──────► retried         it was stopped or its worker died
           └─────────── a new trial with its vector ◄──┘

    A vector that is `infeasible` or a `duplicate` before training is closed at once (`record.screen`): the sampler
    learns of it, and it has no number and no row in the results table.
    """

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETE = "complete"
    EARLY_STOPPED = "early-stopped"
    INFEASIBLE = "infeasible"
    DUPLICATE = "duplicate"
    FAILED = "failed"
    RETRIED = "retried"

    @classmethod
    def _missing_(cls, value: object) -> "TrialState | None":
        return cls(RENAMED[value]) if isinstance(value, str) and value in RENAMED else None

    @property
    def has_result(self) -> bool:
        """Whether the trial has the readings of a model at full fidelity."""
        return self in (TrialState.COMPLETE, TrialState.DUPLICATE)

    @property
    def is_failure(self) -> bool:
        """Whether the trial was evaluated and gave no readings."""
        return self in (TrialState.FAILED, TrialState.INFEASIBLE)


_TO_OPTUNA = {
    TrialState.WAITING: optuna.trial.TrialState.WAITING,
    TrialState.RUNNING: optuna.trial.TrialState.RUNNING,
    TrialState.COMPLETE: optuna.trial.TrialState.COMPLETE,
    TrialState.EARLY_STOPPED: optuna.trial.TrialState.PRUNED,
    TrialState.INFEASIBLE: optuna.trial.TrialState.FAIL,
    TrialState.DUPLICATE: optuna.trial.TrialState.COMPLETE,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
    TrialState.RETRIED: optuna.trial.TrialState.FAIL,
}
_OF_OPTUNA = {
    optuna.trial.TrialState.WAITING: TrialState.WAITING,
    optuna.trial.TrialState.RUNNING: TrialState.RUNNING,
    optuna.trial.TrialState.COMPLETE: TrialState.COMPLETE,
    optuna.trial.TrialState.PRUNED: TrialState.EARLY_STOPPED,
    optuna.trial.TrialState.FAIL: TrialState.FAILED,
}


def to_optuna(state: TrialState, *, screened: bool = False, constrained: bool = False) -> optuna.trial.TrialState:
    """Return the state under which Optuna keeps a trial.

    Args:
        state: the trial's state.
        screened: whether the trial ended before training, without readings.
        constrained: whether a screened trial has constraint values, from which samplers learn.
    """
    if screened:
        return optuna.trial.TrialState.PRUNED if constrained else optuna.trial.TrialState.FAIL
    return _TO_OPTUNA[state]


def of_optuna(state: optuna.trial.TrialState) -> TrialState:
    """Return the state of a trial that has only Optuna's state."""
    return _OF_OPTUNA[state]
