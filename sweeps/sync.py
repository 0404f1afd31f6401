"""Write the tables, the report and the MLflow runs of a study again.

All of them are made from the study alone. Runs in MLflow that are complete stay as they are; no trial is there twice.

Examples:
    python -m sweeps.sync runs/quickstart
    python -m sweeps.sync runs/quickstart --no-mlflow --images
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from analysis.wording import plural
from kmr.core import KMRError
from kmr.data import as_data
from sweeps.errors import SweepError
from sweeps.experiment.instantiate import part
from sweeps.terminal.arguments import command_line
from sweeps.views.card import StudyCard
from sweeps.views.mlflow.open_tracker import open_tracker
from sweeps.views.mlflow.results_tracking import ResultsTracking
from sweeps.views.paths import LOCK, MLFLOW, MLFLOW_FILES
from sweeps.views.publish import publish
from sweeps.views.run_folder import open_run


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Bring the views up to date; return 0, or 2 with one line on stderr when that cannot be done."""
    parser = command_line("sweeps.sync", __doc__)
    parser.add_argument("folder", help="run folder, such as runs/<study>")
    parser.add_argument("--images", action="store_true", help="also draw the report's pictures (needs a browser)")
    parser.add_argument("--no-models", action="store_true", help="log no models of the front to MLflow")
    parser.add_argument("--no-mlflow", action="store_true", help="write the tables and the report only")
    asked = parser.parse_args(arguments)
    try:
        sync(
            asked.folder, console or Console(soft_wrap=True),
            images=asked.images, models=not asked.no_models, mlflow=not asked.no_mlflow,
        )  # fmt: skip
    except (SweepError, KMRError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def sync(
    folder: str | Path, console: Console, *, images: bool = False, models: bool = True, mlflow: bool = True
) -> None:
    """Rebuild all views of a study from its storage.

    Complete MLflow runs stay as they are; missing and incomplete ones are written, and no trial appears twice. The data
    function of the config is called to log models with an input example.

    Args:
        folder: the study's folder.
        console: console to print on.
        images: whether to draw the report's images.
        models: whether to log the front as MLflow models.
        mlflow: whether to write to MLflow.

    Raises:
        SweepError: the folder is not a run folder, a sweep is running in it, or MLflow cannot be reached.
    """

    def say(message: str) -> None:
        console.print(message, markup=False, highlight=False, soft_wrap=True)

    folder = Path(folder).expanduser().absolute()
    opened = open_run(folder)
    try:
        held = FileLock(folder / LOCK).acquire(timeout=0)
    except Timeout as error:
        raise SweepError(f"a sweep is running in {folder} and updates the views itself: wait for it") from error
    with held:
        card = opened.card
        if mlflow:
            set_aside_if_moved(card, folder, say)
            failures: list[str] = []
            said = len(opened.state.records)
            done = said >= card.config.trials
            with open_tracker(
                card, opened.study, folder, failures.append, records=opened.state.records, live=False
            ) as tracker:
                example = _example(card, say) if models and card.config.tracking.models else None
                published = publish(opened.state, folder, ResultsTracking(tracker), images=images, example=example)
                tracker.close("FINISHED" if done else "KILLED")
            if failures:
                raise SweepError(
                    f"the tables and the report are written, MLflow is not: {failures[0]}; run the command again"
                )
            assert tracker.place is not None
            say(f"MLflow  {plural(len(tracker.run_ids), 'trial')}, {tracker.place.ui}")
            say(f"        then open {tracker.place.link}")
            say(f"        the study {tracker.place.study_link}")
        else:
            published = publish(opened.state, folder, None, images=images)
        for message in published.messages:
            say(message)
        say(f"report  {published.report}")


def set_aside_if_moved(card: StudyCard, folder: Path, say: Any) -> None:
    """Set the folder's MLflow database aside if it was created elsewhere, as its artifacts would be written there."""
    database = folder / MLFLOW
    if card.config.tracking.uri is not None or not database.is_file():
        return
    import sqlite3

    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            name = card.config.tracking.experiment or card.config.name
            rows = connection.execute("SELECT artifact_location FROM experiments WHERE name = ?", (name,)).fetchall()
        connection.close()
    except sqlite3.DatabaseError:
        rows = [("a damaged database",)]
    if rows and rows[0][0] != (folder / MLFLOW_FILES).as_uri():
        database.rename(database.with_suffix(".moved"))
        say(f"{database} was created for {rows[0][0]}: set aside as mlflow.moved; writing a new one")


def _example(card: StudyCard, say: Any) -> Any:
    try:
        made = part("data", card.plain["data"], card.config.trusted_modules)
        return as_data(made, card.config.batch_size).train.first_inputs(8)
    except Exception as error:  # a user's data function may fail anywhere, or be missing
        say(f"models are not logged, because the data cannot be loaded: {' '.join(str(error).split())[:200]}")
        return None


if __name__ == "__main__":
    sys.exit(main())
