"""A study's card: the information that its views need besides the trials.

The card is stored in the study, so that tables, report and MLflow runs can be rebuilt from the storage alone, without
the model and the data.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import optuna
from omegaconf import OmegaConf

from kmr.core import Direction, Kind, Seconds, Step
from sweeps.errors import SweepError
from sweeps.experiment.config import Config, with_names_of_now
from sweeps.experiment.experiment import Experiment
from sweeps.search.study.attributes import CARD
from sweeps.search.study.point import Point

FORMAT = 1
_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@/\s]+@")


@dataclass(frozen=True)
class MeterCard:
    """A meter's unit, direction and kind."""

    name: str
    unit: str
    direction: Direction
    kind: Kind


@dataclass(frozen=True)
class DatasetCard:
    """A data split; `context` is training, validation or test."""

    name: str
    digest: str
    rows: int
    context: str


@dataclass(frozen=True)
class StudyCard:
    """A study's config, meters, techniques, base point and data.

    `plain` is the config as plain values, `meters` all meters (costs first), `techniques` the name of the rule of each
    knob, and `base_point` the base model as measured.
    """

    plain: Mapping[str, Any]
    meters: tuple[MeterCard, ...]
    techniques: Mapping[str, str]
    base_point: Point
    datasets: tuple[DatasetCard, ...] = ()
    command: str = ""
    resume: str = ""

    @classmethod
    def of(cls, experiment: Experiment, command: str = "", resume: str = "") -> "StudyCard":
        """Make the card of an experiment; the base model is measured if it has not been."""
        instantiation, data = experiment.instantiation, experiment.data
        meters = (*instantiation.costs, *instantiation.qualities)
        splits = {"training": data.train, "validation": data.validation, "test": data.test}
        return cls(
            plain=json.loads(json.dumps(experiment.plain, default=str)),
            meters=tuple(MeterCard(meter.name, meter.unit, meter.direction, meter.kind) for meter in meters),
            techniques={knob.name: instantiation.rule_of(knob.name).name for knob in instantiation.knobs},
            base_point=Point.of(0, experiment.base),
            datasets=tuple(
                DatasetCard(_dataset_name(experiment.plain, context), split.fingerprint()[:32], len(split), context)
                for context, split in splits.items()
            ),
            command=command,
            resume=resume,
        )  # fmt: skip

    def keep(self, study: optuna.Study) -> None:
        """Store the card in the study, unless it is there, and name the objectives for other tools."""
        plain = {"format": FORMAT, **json.loads(json.dumps(asdict(self)))}
        if study.user_attrs.get(CARD) != plain:
            study.set_user_attr(CARD, plain)
        names = [meter.name for meter in self.objectives]
        if study.metric_names != names:
            study.set_metric_names(names)

    @classmethod
    def read(cls, study: optuna.Study) -> "StudyCard":
        """Read the card of a study.

        Raises:
            SweepError: the study has no card, or one in another format.
        """
        kept = study.user_attrs.get(CARD)
        if kept is None:
            raise SweepError(
                f"study {study.study_name} has no card, because an older version wrote it: run the sweep's command "
                "again, which finishes at once when all trials are done"
            )
        if kept.get("format") != FORMAT:
            raise SweepError(
                f"study {study.study_name} has format {kept.get('format')!r}, and this version reads {FORMAT}: "
                "use the version that wrote it"
            )
        return cls(
            plain=with_names_of_now(kept["plain"]),
            meters=tuple(MeterCard(**{"kind": _kind_before(meter), **meter}) for meter in kept["meters"]),
            techniques=kept["techniques"],
            base_point=Point(**kept["base_point"]),
            datasets=tuple(DatasetCard(**dataset) for dataset in kept["datasets"]),
            command=kept["command"],
            resume=kept["resume"],
        )

    @cached_property
    def config(self) -> Config:
        """The config with its types, without entries that this version does not know."""
        known = {entry.name for entry in fields(Config)}
        kept = {name: value for name, value in self.plain.items() if name in known}
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), kept))
        assert isinstance(config, Config)
        return config

    @property
    def objectives(self) -> tuple[MeterCard, ...]:
        """The meters to search over, in the study's order."""
        by_name = {meter.name: meter for meter in self.meters}
        return tuple(by_name[name] for name in self.config.objectives)

    @property
    def directions(self) -> list[Direction]:
        """The direction of each objective."""
        return [meter.direction for meter in self.objectives]

    @property
    def qualities(self) -> tuple[MeterCard, ...]:
        """The quality meters."""
        return tuple(meter for meter in self.meters if meter.kind == "quality")

    def within_limits(self, point: Point) -> bool:
        """Tell whether a model satisfies every limit of the config."""
        directions = {meter.name: meter.direction for meter in self.meters}
        readings = point.to_readings()
        return all(
            readings[name].value <= limit if directions[name] == "minimize" else readings[name].value >= limit
            for name, limit in self.config.limits.items()
        )

    @cached_property
    def base(self) -> Step:
        """The base model's step."""
        readings = self.base_point.to_readings()
        split = [{m.name: readings[m.name] for m in self.meters if m.kind == kind} for kind in ("cost", "quality")]
        return Step(None, self.base_point.moves, split[0], split[1], Seconds(**self.base_point.seconds))


def _kind_before(meter: Mapping[str, Any]) -> Kind:
    """Return the kind of a meter on an older card, which does not say: every quality was maximised then."""
    return "cost" if meter["direction"] == "minimize" else "quality"


def without_passwords(value: Any) -> Any:
    """Return plain values with the password of every URL in them replaced by stars."""
    match value:
        case str():
            return _PASSWORD.sub(r"\1***@", value)
        case Mapping():
            return {key: without_passwords(item) for key, item in value.items()}
        case list() | tuple():
            return [without_passwords(item) for item in value]
        case _:
            return value


def _dataset_name(plain: Mapping[str, Any], context: str) -> str:
    data = plain.get("data")
    target = str(data.get("_target_", "data")) if isinstance(data, Mapping) else "data"
    return f"{target.rpartition('.')[2]} {context}"
