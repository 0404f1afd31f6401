"""A sweep: one run of an experiment's study by one process."""

from collections.abc import Callable, Mapping, Sequence

import optuna

from sweeps.experiment.experiment import Experiment
from sweeps.experiment.experiment_proposer import Asker
from sweeps.experiment.fidelity import halving_of
from sweeps.experiment.first_trials import first_trials
from sweeps.experiment.front import Front
from sweeps.experiment.intermediate_trials import IntermediateTrials
from sweeps.experiment.model_catalogue import ModelCatalogue
from sweeps.experiment.saved_front import SavedFront
from sweeps.search.execution.driver import drive
from sweeps.search.execution.executors import Executor
from sweeps.search.execution.halving import EarlyStopping
from sweeps.search.execution.interrupts import Interrupts
from sweeps.search.execution.ledger import Ledger
from sweeps.search.execution.observer import Observer
from sweeps.search.execution.stopping import Stop, Stopping
from sweeps.search.study.record import Record
from sweeps.search.study.trial_state import TrialState


class Sweep:
    """The search over an experiment's models.

    Args:
        experiment: the experiment to search.
        study: stores the trials.
        saved: keeps the front and its artifacts.
        asker: proposes the trials; by default with static costs and canonical vectors.
    """

    def __init__(
        self, experiment: Experiment, study: optuna.Study, saved: SavedFront, asker: Asker | None = None
    ) -> None:
        self._experiment, self._study = experiment, study
        self.saved = saved
        """The front and its artifacts."""
        self.asker = asker or Asker(experiment, study)
        growth = _Growth(experiment.config.stop, saved)
        self._stopping = growth.stopping
        intermediates = IntermediateTrials(experiment, study, self.asker, lambda key: self._ledger.first(key))
        halving, problem = halving_of(experiment), self.asker.problem
        self._ledger = Ledger(
            study, problem, self.asker.proposer, ModelCatalogue(experiment, self.asker, saved),
            [saved, growth, intermediates], shared=experiment.config.storage is not None, counts_duplicates=True,
            early_stopping=None if halving is None else EarlyStopping(study, halving, problem.objectives),
        )  # fmt: skip
        if not self.records and not experiment.searches_policy and intermediates.tell_base():
            self._enqueue_first()

    @property
    def records(self) -> Sequence[Record]:
        """The finished trials."""
        return self._ledger.records

    @property
    def finished(self) -> int:
        """The number of finished trials, which counts towards `trials`."""
        return self._ledger.finished

    @property
    def counts(self) -> Mapping[TrialState, int]:
        """The number of trials in each state."""
        return self._ledger.counts

    @property
    def front(self) -> Front:
        """The non-dominated points, including the base model."""
        return self.saved.front

    def run(
        self,
        trials: int,
        executor: Executor,
        interrupts: Interrupts,
        listeners: Sequence[Observer] = (),
        say: Callable[[str], None] = lambda message: None,
    ) -> str | None:
        """Run until this many trials are finished, as `sweeps.search.execution.driver.drive` does.

        Args:
            trials: the total, including earlier runs.
            executor: evaluates the trials.
            interrupts: handle signals.
            listeners: observe every trial of this run.
            say: prints messages about trials without a result.
        """
        own = self._ledger.observers
        self._ledger.observers = [*own, *listeners]
        try:
            return drive(self._ledger, trials, executor, self._stopping, interrupts, say, lambda: self.asker.exhausted)
        finally:
            self._ledger.observers = own

    def _enqueue_first(self) -> None:
        if self._experiment.config.first_trials:
            for vector in first_trials(self._experiment.config.first_trials, self._experiment.space):
                self._study.enqueue_trial(vector, skip_if_exists=True)
        self.asker.enqueue_anchors()


class _Growth(Observer):
    """Observer that records the front's hypervolume after each trial."""

    def __init__(self, stop: Stop, saved: SavedFront) -> None:
        self._saved = saved
        self._hypervolumes: list[float] = []
        self.stopping = Stopping(stop, self._gain)

    def took(self, record: Record) -> None:
        """Record the hypervolume after a trial."""
        self.stopping.finished(record)
        if record.state != TrialState.RETRIED:
            self._hypervolumes.append(self._saved.front.hypervolume)

    def _gain(self, window: int) -> float:
        return self._hypervolumes[-1] - self._hypervolumes[-1 - window]
