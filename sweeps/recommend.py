"""Recommend one model of a study: the best that meets the limits, how sure that is, and the runner-up.

A limit is '<meter><=<number>' or '<meter>>=<number>', in quotes; `baseline` stands for what the base model reads.
The answer names the point, the saved model and the command that makes it again.

Examples:
    python -m sweeps.recommend runs/quickstart
    python -m sweeps.recommend runs/quickstart 'weight_bytes<=20000' 'accuracy>=0.98*baseline'
    python -m sweeps.recommend runs/quickstart 'accuracy>=0.95' --best weight_bytes --json
"""

import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.selection.choose import Pick, Selection, choose
from analysis.table import StudyTable, TableError
from sweeps.errors import SweepError
from sweeps.terminal.arguments import command_line
from sweeps.views.run_folder import Opened, open_run


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Print the answer; return 0, 1 when no model meets the limits, 2 with one line on stderr for bad input."""
    parser = command_line("sweeps.recommend", __doc__)
    parser.add_argument("folder", help="run folder, such as runs/<study>")
    parser.add_argument(
        "limits",
        nargs="*",
        help="limits such as latency_ms<=5, accuracy>=0.98*baseline or mse<=1.02*baseline (default: none)",
    )
    parser.add_argument("--best", metavar="METER", help="the meter to optimise (default: a quality without a limit)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args(arguments)
    try:
        opened = open_run(asked.folder)
        choice = choose(opened.table(), asked.limits, asked.best)
    except (SweepError, TableError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if asked.json:
        print(json.dumps(_plain(choice, asked.folder), indent=1, allow_nan=False))
    else:
        _print(choice, opened, asked.folder, bool(asked.limits), console or Console(soft_wrap=True))
    return 0 if choice.pick is not None else 1


def reproduce_command(folder: str | Path, point: str) -> str:
    """Return the command that rebuilds a point's model and compares its readings."""
    return shlex.join(["python", "-m", "sweeps.reproduce", str(folder), point])


def _print(choice: Selection, opened: Opened, folder: str, limited: bool, console: Console) -> None:
    def line(label: str, text: str, style: str = "") -> None:
        console.print(f"{label:<13}{text}", style=style, markup=False, highlight=False, soft_wrap=True)

    line("asked", choice.question)
    if choice.pick is None:
        line("answer", choice.remark, "yellow")
        return
    _print_pick("take", choice.pick, line, "bold")
    if limited:
        line("", f"meets the limits with probability {choice.pick.p_limits:.2f}")
    if math.isfinite(choice.pick.p_front):
        line("", f"is on the front with probability {choice.pick.p_front:.2f}")
    if choice.remark:
        line("note", choice.remark, "yellow")
    if choice.runner_up is not None:
        _print_pick("runner-up", choice.runner_up, line)
        line("", f"the recommended point is better in {choice.best} with probability {choice.p_better:.2f}")
    else:
        line("runner-up", "none: no other model meets the limits" if limited else "none: there is no other model")
    if choice.pick.artifact:
        trusted = list(opened.card.config.trusted_modules)
        more = f", trusted_modules={trusted}" if trusted else ""
        line("load", f"kmr.load({str(opened.folder / choice.pick.artifact)!r}{more})")
    if not choice.pick.is_baseline:
        line("reproduce", reproduce_command(folder, choice.pick.point))
    if not limited:
        line("limits", f"add some to narrow the choice: {_example(opened.table())}")


def _example(table: StudyTable) -> str:
    """Return example limits on the study's first objectives, as typed in a shell."""
    shown = []
    for name in table.objectives[:2]:
        baseline = table.baseline(name)[0]
        sign = "<=" if table.direction(name) == "minimize" else ">="
        share = "0.25" if table.kind(name) == "cost" else "1.02" if sign == "<=" else "0.98"
        bound = f"{share}*baseline" if baseline > 0 else "<number>"
        shown.append(f"'{name}{sign}{bound}'")
    return " or ".join(shown)


def _print_pick(label: str, pick: Pick, line: Any, style: str = "") -> None:
    line(label, f"{pick.point}  {pick.sequence}", style)
    for measured in pick.measured:
        line("", f"{measured.meter} {measured.words}")


def _plain(choice: Selection, folder: str) -> Any:
    def finite(value: Any) -> Any:
        match value:
            case dict():
                return {key: finite(item) for key, item in value.items()}
            case list() | tuple():
                return [finite(item) for item in value]
            case float() if not math.isfinite(value):
                return None
            case _:
                return value

    reproduce = reproduce_command(folder, choice.pick.point) if choice.pick and not choice.pick.is_baseline else None
    return finite(asdict(choice) | {"reproduce": reproduce})


if __name__ == "__main__":
    sys.exit(main())
