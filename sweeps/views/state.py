"""State of a study: all that its storage holds, read once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from kmr.core import Readings
from sweeps.experiment.assessment.degradation import kept_profiles
from sweeps.experiment.assessment.held_out import _TEST, to_readings
from sweeps.experiment.assessment.layers import kept_layers
from sweeps.experiment.assessment.noise import Noise, kept_noise
from sweeps.experiment.front import Front
from sweeps.search.study.point import Point, identifier
from sweeps.search.study.record import Record, now, turned_down
from sweeps.views.card import StudyCard

_CREATED = "kmr:created"


_UNSAVED = "kmr:unsaved"


@dataclass(frozen=True)
class State:
    """All that a study's storage holds, read once.

    `unsaved` names the points that measure well but could not be saved, and why; `tested` holds the readings on
    held-out data, of the base model too; `noise` what the noise stage found; `layers` what became of each layer of the
    front's models, and `profiles` their accuracy-degradation profiles; `turned_down` counts vectors that were never
    trained, by reason.
    """

    card: StudyCard
    records: Sequence[Record]
    unsaved: Mapping[str, str]
    tested: Mapping[str, Readings]
    noise: Mapping[str, Noise]
    layers: Mapping[str, Any]
    profiles: Mapping[str, list[float]]
    turned_down: Mapping[str, int]
    created: str

    @property
    def points(self) -> dict[str, Point]:
        """The measured models by their ids, the base model first; a trial served from an earlier one has none."""
        found = {"base": self.card.base_point}
        for record in self.records:
            if record.served_from is None:
                found |= {identifier(record.number, point.step): point for point in record.points}
        return found


def read_state(card: StudyCard, study: optuna.Study, records: Sequence[Record]) -> State:
    """Read what else the storage holds."""
    kept = study.user_attrs
    tested = {name.removeprefix(_TEST): value for name, value in kept.items() if name.startswith(_TEST)}
    return State(
        card,
        records,
        dict(kept.get(_UNSAVED, {})),
        {name: to_readings(value) for name, value in tested.items()},
        kept_noise(study),
        kept_layers(study),
        kept_profiles(study),
        turned_down(study),
        str(kept.get(_CREATED, "")),
    )


def keep_unsaved(study: optuna.Study, unsaved: Mapping[str, str]) -> None:
    """Write into the study which points could not be saved, and why."""
    if study.user_attrs.get(_UNSAVED, {}) != dict(unsaved):
        study.set_user_attr(_UNSAVED, dict(unsaved))


def keep_created(study: optuna.Study) -> None:
    """Write into the study when it was made, the first time."""
    if _CREATED not in study.user_attrs:
        study.set_user_attr(_CREATED, now())


def final_front(state: State) -> Front:
    """Return the front of all records."""
    front = Front(state.card)
    for record in state.records:
        add_record(front, record, state.unsaved)
    return front


def add_record(front: Front, record: Record, unsaved: Mapping[str, str]) -> None:
    """Offer the points of a trial to a front; those that could not be saved are left out."""
    for point in record.points if record.served_from is None else ():
        name = identifier(record.number, point.step)
        if name not in unsaved:
            front.add(name, point)
