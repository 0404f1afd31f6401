"""Measured models that no trial ends with, told to the study as finished trials, so that its sampler learns of them."""

import uuid
from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType

import optuna

from sweeps.experiment.experiment import Experiment
from sweeps.experiment.experiment_proposer import Asker
from sweeps.experiment.knob_space import to_params
from sweeps.search.execution.observer import Observer
from sweeps.search.space import distributions
from sweeps.search.study.attributes import INTERMEDIATE_OF
from sweeps.search.study.point import Point
from sweeps.search.study.record import Record, constraints

_BEGUN_BY = "kmr:begun_by"
"""The user attribute of the base model's trial that tells apart drivers that begin at once."""


class IntermediateTrials(Observer):
    """Observer that tells the study of the models on the way of each trial, marked with the trial they come from.

    Args:
        experiment: what is searched.
        study: hears of the models.
        asker: knows which sequences lead to one model.
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
        """Tell the study of the models that this trial was the first to measure."""
        if self._experiment.searches_policy or record.served_from is not None:
            return
        for point in record.points[:-1] if record.state == "complete" else record.points:
            if self._first(self._asker.key_of(point.moves)) == record.number:
                self._tell(point, record.number)

    def tell_base(self) -> bool:
        """Tell the study of the base model; return whether this driver is the one that begins the study."""
        if self._bases():
            return True
        mine = uuid.uuid4().hex
        self._tell(Point.of(0, self._experiment.base), -1, {_BEGUN_BY: mine})
        return self._bases()[:1] in ([], [mine])

    def _bases(self) -> list[str]:
        """Return the drivers that told the study of the base model, in the order they did."""
        trials = self._study.get_trials(deepcopy=False)
        return [trial.user_attrs[_BEGUN_BY] for trial in trials if _BEGUN_BY in trial.user_attrs]

    def _tell(self, point: Point, of_trial: int, more: Mapping[str, str] = MappingProxyType({})) -> None:
        """Add a finished trial for a model, where a knob vector stands for it."""
        experiment, problem = self._experiment, self._asker.problem
        params = to_params(experiment.instantiation, experiment.space, point.moves)
        if params is None:
            return
        self._study.add_trial(
            optuna.trial.create_trial(
                values=point.values(list(problem.objectives)),
                params=params,
                distributions=distributions(experiment.space),
                user_attrs={INTERMEDIATE_OF: of_trial, **more},
                constraints=constraints(problem, point) or None,
            )
        )
