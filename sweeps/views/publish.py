"""What is derived from a study's storage: the table, the report, the MLflow runs. Safe to repeat at any time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf

import analysis.report
import analysis.table
from analysis.selection.standing_answers import recommend
from analysis.wording import plural
from kmr.core import Readings
from sweeps.experiment.assessment.degradation import kept_profiles, with_profiles
from sweeps.experiment.assessment.layers import kept_layers, with_layers
from sweeps.experiment.assessment.noise import Noise, kept_noise
from sweeps.experiment.front import Front, artifact_path
from sweeps.search.study.point import Point
from sweeps.search.study.record import Record, now, recalled, study_id, turned_down
from sweeps.views import results_table as results
from sweeps.views.card import StudyCard, without_passwords
from sweeps.views.mlflow.models import FrontModel
from sweeps.views.mlflow.runs import run_name
from sweeps.views.mlflow.tracker import Finished, Tracker
from sweeps.views.results_table import identifier

_TEST = "kmr:test:"
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
        {name: results.to_readings(value) for name, value in tested.items()},
        kept_noise(study),
        kept_layers(study),
        kept_profiles(study),
        turned_down(study),
        str(kept.get(_CREATED, "")),
    )


def keep_test(study: optuna.Study, point: str, readings: Readings) -> None:
    """Write the readings of a point on held-out data into the study."""
    study.set_user_attr(_TEST + point, {key: {"value": r.value, "stderr": r.stderr} for key, r in readings.items()})


def kept_test(study: optuna.Study, point: str) -> Readings | None:
    """Return the readings of a point on held-out data, where they are known."""
    stored = study.user_attrs.get(_TEST + point)
    return None if stored is None else results.to_readings(stored)


def keep_unsaved(study: optuna.Study, unsaved: Mapping[str, str]) -> None:
    """Write into the study which points could not be saved, and why."""
    if study.user_attrs.get(_UNSAVED, {}) != dict(unsaved):
        study.set_user_attr(_UNSAVED, dict(unsaved))


def keep_created(study: optuna.Study) -> None:
    """Write into the study when it was made, the first time."""
    if _CREATED not in study.user_attrs:
        study.set_user_attr(_CREATED, now())


class BestWithinBudget:
    """Follows the best quality readings among the models within the study's budget; without a budget there are none.

    Args:
        card: of the study, whose base model counts too.
        records: the trials so far.
    """

    def __init__(self, card: StudyCard, records: Sequence[Record] = ()) -> None:
        self._card = card
        self._best: dict[str, float] = {}
        self._consider(card.base_point)
        for record in records:
            self(record)

    def __call__(self, record: Record) -> dict[str, float]:
        """Return the figures after a trial."""
        for point in record.points:
            self._consider(point)
        return {f"best_within_budget/{name}": value for name, value in self._best.items()}

    def _consider(self, point: Point) -> None:
        if self._card.config.budget and self._card.within_budget(point):
            for meter in self._card.qualities:
                value = point.readings[meter.name][0]
                if value is not None:
                    self._best[meter.name] = max(value, self._best.get(meter.name, value))


def open_tracker(
    card: StudyCard,
    study: optuna.Study,
    folder: Path,
    say: Callable[[str], None],
    *,
    records: Sequence[Record] = (),
    live: bool = True,
) -> Tracker:
    """Start a tracker for a study, at the place its config names.

    Args:
        card: of the study.
        study: where its identifier is kept.
        folder: of the study.
        say: prints a message to the user.
        records: the trials so far, which are written too where they are missing.
        live: the study is running, so that the machine's load is of interest.
    """
    config = card.config
    tracker = Tracker(
        config.tracking.uri,
        config.tracking.experiment or config.name,
        study_id(study),
        folder,
        say,
        system_metrics=live and config.tracking.system_metrics,
        figures=BestWithinBudget(card, records),
    )
    shown = without_passwords(card.plain)
    tags = {
        "kmr.study": config.name,
        "kmr.folder": str(folder),
        "mlflow.source.git.commit": results.git_commit() or "none",
        **{f"version.{name}": value for name, value in results.versions().items()},
        **{f"machine.{name}": value for name, value in results.environment().items()},
    }
    tracker.start(_flat(shown), tags, OmegaConf.to_yaml(OmegaConf.create(shown)), card.datasets)
    state = read_state(card, study, tuple(records))
    tracker.backfill(len(records), lambda: replay(state))
    return tracker


def _flat(plain: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(plain, dict) and plain:
        return {k: v for key, value in plain.items() for k, v in _flat(value, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): str(plain)} if prefix else {}


def replay(state: State) -> Iterator[Finished]:
    """Yield each trial as MLflow shows it, with where the study stood after it."""
    front, best = Front(state.card), BestWithinBudget(state.card)
    for record in state.records:
        _add(front, record, state.unsaved)
        yield Finished(record, run_name(record), front.hypervolume, front.members, best(record))


def final_front(state: State) -> Front:
    """Return the front of all records."""
    front = Front(state.card)
    for record in state.records:
        _add(front, record, state.unsaved)
    return front


def _add(front: Front, record: Record, unsaved: Mapping[str, str]) -> None:
    for point in record.points if record.served_from is None else ():
        name = identifier(record.number, point.step)
        if name not in unsaved:
            front.add(name, point)


@dataclass(frozen=True)
class Published:
    """The report's page, what there is to say, the table everything was made from, and the ids on its front."""

    report: Path
    messages: tuple[str, ...]
    table: analysis.table.StudyTable
    front: tuple[str, ...]


def publish(
    state: State, folder: Path, tracker: Tracker | None, *, images: bool = False, example: Any = None
) -> Published:
    """Write the table and the report into the folder, and bring MLflow up to date.

    Args:
        state: of the study.
        folder: of the study.
        tracker: started; None writes nothing to MLflow.
        images: also draw the report's pictures.
        example: a batch of inputs; front members are logged as models of MLflow where there is one.
    """
    front = final_front(state)
    if tracker is not None:
        tracker.flush()
    place = tracker.place if tracker is not None else None
    shown = {**asdict(place), "ui": place.ui, "link": place.link, "study_link": place.study_link} if place else None
    on_front = {name: state.tested.get(name, {}) for name in front.members}
    frame = results.frame(
        state.card, state.records, on_front, tracker.run_ids if tracker else {}, folder, state.unsaved
    )
    meta = results.meta(
        state.card,
        state.records,
        state.tested.get("base", {}),
        state.turned_down,
        created=state.created,
        place=without_passwords(shown),
    )
    frame = with_layers(results.with_noise(frame, meta, state.noise), state.layers)
    table = analysis.table.StudyTable(with_profiles(frame, state.profiles), meta, folder)
    analysis.table.save(folder, table.frame, meta)
    if tracker is not None:
        _track(tracker, state, front, table, example)
    report = analysis.report.write(folder, images=images)
    if tracker is not None:
        for path in dict.fromkeys((report.html, *report.files, folder / analysis.table.RESULTS)):
            tracker.log_files({"report": path})
        tracker.log_files({"": folder / analysis.table.META})
    return Published(report.html, report.messages, table, front.members)


def _track(tracker: Tracker, state: State, front: Front, table: analysis.table.StudyTable, example: Any) -> None:
    folder, points = table.folder, state.points
    answers = [answer.sentence for answer in recommend(table)]
    metrics = {
        "hypervolume_final": front.hypervolume,
        "trials_finished": float(sum(record.state != "interrupted" for record in state.records)),
        "trials_failed": float(sum(record.state in ("failed", "infeasible") for record in state.records)),
        "seconds_training": sum(record.seconds for record in state.records),
        **{f"cache/{name}": float(value) for name, value in asdict(recalled(state.records)).items()},
    }
    note = _note(state, front, answers, folder)
    tags = {"front": ", ".join(front.members), "mlflow.note.content": without_passwords(note)}
    tested = {
        name: {meter: reading.value for meter, reading in state.tested.get(name, {}).items()} for name in front.members
    }
    tracker.log_final(metrics, tags, front.members, tested)
    saved = [name for name in front.members if artifact_path(folder, name).is_dir()]
    if example is not None and state.card.config.tracking.models:
        members = [
            FrontModel(
                name,
                artifact_path(folder, name),
                {key: reading.value for key, reading in points[name].to_readings().items()}
                | {f"test/{key}": value for key, value in tested[name].items()},
                str(points[name].moves),
                tuple(state.card.config.trusted_modules),
            )
            for name in saved
        ]
        tracker.log_models(members, example)


def _note(state: State, front: Front, answers: Sequence[str], folder: Path) -> str:
    """Write the description that MLflow shows on the study's page, in Markdown."""
    objectives = [meter.name for meter in state.card.objectives]
    tested = list(dict.fromkeys(meter for name in front.members for meter in state.tested.get(name, {})))[:1]
    head = ["point", "sequence", *objectives, *(f"{meter} (held-out test)" for meter in tested)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    points = state.points
    rows = sorted(front.members, key=lambda name: points[name].values(objectives)[0])
    for name in rows[:50]:
        cells = [name, str(points[name].moves), *(f"{value:.5g}" for value in points[name].values(objectives))]
        known = state.tested.get(name, {})
        cells += [f"{known[meter].value:.5g}" if meter in known else "–" for meter in tested]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    if len(rows) > 50:
        lines.append(f"\n… and {len(rows) - 50} more")
    said = "\n".join(f"- {answer}" for answer in answers)
    return "\n\n".join(
        part
        for part in (
            f"**Front of {state.card.config.name}**: {plural(len(front.members), 'point')}, "
            f"hypervolume {front.hypervolume:.4f}. "
            "The interactive report is `report/report.html` under Artifacts.",
            "\n".join(lines),
            said,
            f'Load a point: `kmr.load("{folder / "front"}/<point>")`',
            f"Run again: `{state.card.command}`" if state.card.command else "",
        )
        if part
    )
