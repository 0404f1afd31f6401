"""Show how a study stands, also while it runs: counts, the front, recommended models, causes of failure.

It reads the study alone, needs neither the model nor the data, and changes nothing.

Examples:
    python -m sweeps.show runs/quickstart
    python -m sweeps.show runs/quickstart --watch 5
"""

import sys
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from analysis.selection.standing_answers import recommend
from analysis.wording import plural
from sweeps.errors import SweepError
from sweeps.search.study.record import recalled
from sweeps.search.study.trial_state import TrialState
from sweeps.terminal.arguments import command_line
from sweeps.terminal.braille_plot import sketch
from sweeps.terminal.console import wide_console
from sweeps.terminal.front_table import front_table
from sweeps.views.mlflow.runs import RunPlace
from sweeps.views.paths import JOURNAL, MLFLOW, REPORT
from sweeps.views.run_folder import Opened, open_run


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Print the study; return 0, or 2 with one line on stderr when the folder cannot be read."""
    parser = command_line("sweeps.show", __doc__)
    parser.add_argument("folder", help="run folder, such as runs/<study>")
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="refresh at this interval, until Ctrl-C")
    asked = parser.parse_args(arguments)
    console = console or wide_console()
    try:
        while True:
            opened = open_run(asked.folder)
            if asked.watch and console.is_terminal:
                console.clear()
            show(opened, console)
            if not asked.watch:
                return 0
            time.sleep(max(0.5, asked.watch))
    except SweepError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def show(opened: Opened, console: Console) -> None:
    """Print counts, a sketch and a table of the front, answers, causes of failure, and where to find the results."""
    state, card = opened.state, opened.card
    front, found = opened.front, state.records

    def line(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    finished = sum(record.state != TrialState.RETRIED for record in found)
    states = sorted(opened.counts.items(), key=lambda entry: list(TrialState).index(entry[0]))
    counts = [f"{finished} of {plural(card.config.trials, 'trial')}", *(f"{n} {state}" for state, n in states)]
    line(f"{card.config.name}: " + ", ".join(counts), "bold")
    spent = sum(record.seconds for record in found)
    if (kept := recalled(found)).hits:
        line(str(kept))
    on_front = plural(len(front.members), "point")
    line(f"hypervolume {front.hypervolume:.4f}, {on_front} on the front, {spent:.0f} s of trials")
    points = state.points
    first, second, *_ = (meter.name for meter in card.objectives)
    values = {name: point.values([first, second]) for name, point in points.items()}
    drawn = sketch(
        [(x, y) for x, y in values.values()], [(values[name][0], values[name][1]) for name in front.members],
        labels=(first, second),
    )  # fmt: skip
    for text in drawn:
        line("  " + text)
    table = opened.table()
    console.print(front_table(state, table, front.members))
    for warning in state.warnings:
        line(warning, "yellow")
    for answer in recommend(table):
        line(f"· {answer.sentence}")
    without = [record for record in found if record.state.is_failure or record.state == TrialState.RETRIED]
    causes = Counter((record.error or record.state).splitlines()[0] for record in without)
    for cause, count in causes.most_common(8):
        console.print(Text(f"{count} × {cause}", style="yellow"), soft_wrap=True)
    _where(opened, line)


def _where(opened: Opened, line: object) -> None:
    assert callable(line)
    folder, card = opened.folder, opened.card
    report = folder / REPORT
    if report.is_file():
        line(f"report  {report}")
    database = folder / MLFLOW
    if card.config.tracking.uri or database.is_file():
        line(f"MLflow  {RunPlace(card.config.tracking.uri or f'sqlite:///{database}', '', '').ui}")
    line(f"choose  python -m sweeps.recommend {folder} '<meter><=<number>'")
    if card.config.storage is None:
        line(f"Optuna  optuna-dashboard {folder / JOURNAL} --host 127.0.0.1")
    if card.resume:
        line(f"resume  {card.resume}")


if __name__ == "__main__":
    sys.exit(main())
