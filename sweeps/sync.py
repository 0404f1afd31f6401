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
    """Write everything again that is derived from a study.

    Runs of MLflow that are whole are left as they are, those that are missing or were left half written are written;
    no trial is there twice. The data function of the config is called to log models with an example of their input.

    Args:
        folder: of the study.
        console: where to print.
        images: also draw the report's pictures.
        models: also log the front as models of MLflow.
        mlflow: write to MLflow at all.

    Raises:
        SweepError: it is no run folder, a sweep is running in it, or MLflow cannot be reached.
    """

    def say(message: str) -> None:
        console.print(message, markup=False, highlight=False, soft_wrap=True)

    folder = Path(folder).expanduser().absolute()
    opened = open_run(folder)
    try:
        held = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise SweepError(f"a sweep is running in {folder} and keeps everything up to date: wait for it") from error
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
                published = publish(opened.state, folder, tracker, images=images, example=example)
                tracker.close("FINISHED" if done else "KILLED")
            if failures:
                raise SweepError(f"the tables and the report are written, MLflow is not: {failures[0]}")
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
    """Begin the folder's own MLflow anew where it was made in another place, to which its artifacts would go."""
    database = folder / "mlflow.db"
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
    if rows and rows[0][0] != (folder / "mlartifacts").as_uri():
        database.rename(database.with_suffix(".moved"))
        say(f"{database} was made for {rows[0][0]}: set aside as mlflow.moved, and written anew")


def _example(card: StudyCard, say: Any) -> Any:
    try:
        made = part("data", card.plain["data"], card.config.trusted_modules)
        return as_data(made, card.config.batch_size).train.first_inputs(8)
    except Exception as error:  # a user's data function may fail anywhere, or be elsewhere
        say(f"models are not logged, the data cannot be made: {' '.join(str(error).split())[:200]}")
        return None


if __name__ == "__main__":
    sys.exit(main())
