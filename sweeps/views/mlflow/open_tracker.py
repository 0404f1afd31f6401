"""Opening of a study's tracker, with the trials so far."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf

from sweeps.experiment.front import Front
from sweeps.search.study.point import Point
from sweeps.search.study.record import Record, study_id
from sweeps.views.card import StudyCard, without_passwords
from sweeps.views.mlflow.backlog import Finished
from sweeps.views.mlflow.runs import run_name
from sweeps.views.mlflow.tracker import Tracker
from sweeps.views.provenance import environment, git_commit, versions
from sweeps.views.state import State, add_record, read_state


class BestWithinLimits:
    """The best quality readings among the models within the study's limits; without limits there are none.

    Args:
        card: the study's card, whose base model counts too.
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
        return {f"best_within_limits/{name}": value for name, value in self._best.items()}

    def _consider(self, point: Point) -> None:
        if self._card.config.limits and self._card.within_limits(point):
            for meter in self._card.qualities:
                value = point.readings[meter.name][0]
                if value is not None:
                    better = min if meter.direction == "minimize" else max
                    self._best[meter.name] = better(value, self._best.get(meter.name, value))


def open_tracker(
    card: StudyCard,
    study: optuna.Study,
    folder: Path,
    say: Callable[[str], None],
    *,
    records: Sequence[Record] = (),
    live: bool = True,
) -> Tracker:
    """Start a study's tracker, at the address in its config.

    Args:
        card: the study's card.
        study: stores the study's identifier.
        folder: the study's folder.
        say: prints a message to the user.
        records: the trials so far; missing ones are written.
        live: the study is running, so that system metrics make sense.
    """
    config = card.config
    tracker = Tracker(
        config.tracking.uri,
        config.tracking.experiment or config.name,
        study_id(study),
        folder,
        say,
        system_metrics=live and config.tracking.system_metrics,
        figures=BestWithinLimits(card, records),
    )
    shown = without_passwords(card.plain)
    tags = {
        "kmr.study": config.name,
        "kmr.folder": str(folder),
        "mlflow.source.git.commit": git_commit() or "none",
        **{f"version.{name}": value for name, value in versions().items()},
        **{f"machine.{name}": value for name, value in environment().items()},
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
    """Yield each trial as MLflow shows it, with the study's figures after it."""
    front, best = Front(state.card), BestWithinLimits(state.card)
    for record in state.records:
        add_record(front, record, state.unsaved)
        yield Finished(record, run_name(record), front.hypervolume, front.members, best(record))
