"""Catalogue of the models that an experiment's trials measured, including intermediate ones."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

from sweeps.experiment.experiment import Experiment
from sweeps.experiment.experiment_proposer import Asker
from sweeps.experiment.saved_front import SavedFront
from sweeps.search.execution.observer import Catalogue
from sweeps.search.study.point import Point
from sweeps.search.study.record import Record
from sweeps.search.study.trial_state import TrialState


class ModelCatalogue(Catalogue):
    """Catalogue by model key: vectors that give equal structure, bits and values are one model.

    Args:
        experiment: the experiment to search.
        asker: returns the keys.
        saved: holds the front.
    """

    def __init__(self, experiment: Experiment, asker: Asker, saved: SavedFront) -> None:
        self._experiment, self._asker, self._saved = experiment, asker, saved

    def kept(self, point: Point) -> Point:
        """Return the point with its model's key."""
        return replace(point, key=str(self._asker.key_of(point.moves)))

    def known(self, record: Record) -> Iterable[tuple[Hashable, Sequence[Point]]]:
        """Yield every measured model by key; for a policy search, only complete trials by their parameters."""
        if self._experiment.searches_policy:
            if record.state == TrialState.COMPLETE:
                yield self._asker.key(record.params), record.points
            return
        for count, point in enumerate(record.points, start=1):
            self._asker.remember(point)
            yield self._asker.key_of(point.moves), record.points[:count]

    @property
    def front_values(self) -> tuple[tuple[float, ...], ...]:
        """The objectives' values of the front."""
        return self._saved.front.values

    @property
    def base(self) -> Point:
        """The base model."""
        return Point.of(0, self._experiment.base)
