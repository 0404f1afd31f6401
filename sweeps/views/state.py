"""State of a study, read once from its storage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna

from kmr.core import Readings
from sweeps.experiment.assessment.degradation import kept_profiles
from sweeps.experiment.assessment.held_out import kept_tests
from sweeps.experiment.assessment.layers import kept_layers
from sweeps.experiment.assessment.noise import PointNoise, kept_noise
from sweeps.experiment.front import Front
from sweeps.experiment.remade import kept_remade, with_remade
from sweeps.experiment.study_code import CodeChange, code_changes
from sweeps.search.study.attributes import CREATED, UNSAVED
from sweeps.search.study.point import Point, identifier
from sweeps.search.study.proposal import count_rejected, count_untrained
from sweeps.search.study.record import Record, now
from sweeps.search.study.trial_state import TrialState
from sweeps.views.card import StudyCard


@dataclass(frozen=True)
class State:
    """The contents of a study's storage, read once.

    `unsaved` maps the points that could not be saved to the reason. `tested` holds the held-out readings, including the
    base model's; `noise` the readings of the noise stage; `layers` the layer-by-layer changes of front members; and
    `profiles` their accuracy-degradation profiles. `untrained` counts the vectors that ended before training, by state,
    and `rejected` the candidates that broke a limit. `code_changes` are the accepted changes of the study's code,
    and `remade` says how front members that were made again differ from the models first measured.
    """

    card: StudyCard
    records: Sequence[Record]
    unsaved: Mapping[str, str]
    tested: Mapping[str, Readings]
    noise: Mapping[str, PointNoise]
    layers: Mapping[str, Any]
    profiles: Mapping[str, list[float]]
    untrained: Mapping[TrialState, int]
    rejected: int
    created: str
    code_changes: Sequence[CodeChange] = ()
    remade: Mapping[str, str] = field(default_factory=dict)

    @property
    def warnings(self) -> list[str]:
        """What a reader of the numbers must know: changed code, and models that are not those first measured."""
        return [*map(str, self.code_changes), *(f"{name} was {how}" for name, how in self.remade.items())]

    @property
    def points(self) -> dict[str, Point]:
        """The measured models by their ids, the base model first; a duplicate has none."""
        return {"base": self.card.base_point, **points_of(self.records)}


def points_of(records: Sequence[Record]) -> dict[str, Point]:
    """Return the models that trials measured by their ids; a duplicate has none."""
    return {
        identifier(record.number, point.step): point
        for record in records
        if record.state != TrialState.DUPLICATE
        for point in record.points
    }


def read_state(card: StudyCard, study: optuna.Study, records: Sequence[Record]) -> State:
    """Read the rest of the state from the storage."""
    kept, remade = study.user_attrs, kept_remade(study)
    return State(
        card,
        [with_remade(record, remade) for record in records],
        dict(kept.get(UNSAVED, {})),
        kept_tests(study),
        kept_noise(study),
        kept_layers(study),
        kept_profiles(study),
        count_untrained(study),
        count_rejected(study),
        str(kept.get(CREATED, "")),
        code_changes(study),
        {name: remade[name].note(point) for name, point in points_of(records).items() if name in remade},
    )


def keep_unsaved(study: optuna.Study, unsaved: Mapping[str, str]) -> None:
    """Store in the study which points could not be saved, and why."""
    if study.user_attrs.get(UNSAVED, {}) != dict(unsaved):
        study.set_user_attr(UNSAVED, dict(unsaved))


def keep_created(study: optuna.Study) -> None:
    """Store the time of creation in the study, unless it is there."""
    if CREATED not in study.user_attrs:
        study.set_user_attr(CREATED, now())


def final_front(state: State) -> Front:
    """Return the front of all records."""
    front = Front(state.card)
    for record in state.records:
        add_record(front, record, state.unsaved)
    return front


def add_record(front: Front, record: Record, unsaved: Mapping[str, str]) -> None:
    """Offer the points of a trial to a front; those that could not be saved are left out."""
    for point in record.points if record.state != TrialState.DUPLICATE else ():
        name = identifier(record.number, point.step)
        if name not in unsaved:
            front.add(name, point)
