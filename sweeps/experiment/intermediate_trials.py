"""Intermediate models, added to the study as finished trials so that its sampler learns from them."""

import uuid
from collections.abc import Callable, Hashable

import optuna

from sweeps.experiment.experiment import Experiment
from sweeps.experiment.experiment_proposer import Asker
from sweeps.experiment.knob_space import to_params
from sweeps.search.execution.observer import Observer
from sweeps.search.study.point import Point
from sweeps.search.study.record import Record, add_intermediate, begun_by
from sweeps.search.study.trial_state import TrialState


class IntermediateTrials(Observer):
    """Observer that adds each trial's intermediate models to the study, marked with that trial's number.

    Args:
        experiment: the experiment to search.
        study: receives the models.
        asker: returns the keys of sequences.
        first: returns the number of the first trial that measured a model, by its key.
    """

    def __init__(
        self,
        experiment: Experiment,
        study: optuna.Study,
        asker: Asker,
        first: Callable[[Hashable], int | None],
    ) -> None:
        self._experiment, self._study, self._asker, self._first = experiment, study, asker, first

    def closed(self, record: Record) -> None:
        """Add the models that this trial was the first to measure."""
        if self._experiment.searches_policy or record.state == TrialState.DUPLICATE:
            return
        for point in record.points[:-1] if record.state == TrialState.COMPLETE else record.points:
            if self._first(self._asker.key_of(point.moves)) == record.number:
                self._tell(point, record.number)

    def tell_base(self) -> bool:
        """Add the base model to the study; return whether this driver is the one that begins the study."""
        if begun_by(self._study):
            return True
        mine = uuid.uuid4().hex
        self._tell(Point.of(0, self._experiment.base), -1, mine)
        return begun_by(self._study)[:1] in ([], [mine])

    def _tell(self, point: Point, of_trial: int, driver: str | None = None) -> None:
        """Add a finished trial for a model, if a knob vector expresses it."""
        params = to_params(self._experiment.instantiation, self._experiment.space, point.moves)
        if params is not None:
            add_intermediate(self._study, self._asker.problem, point, params, of_trial, driver)
