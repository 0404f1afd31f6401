"""Write the report of a study again, with the exports of its front; or, of several studies, a page that compares them.

Reads results.parquet and meta.json of a run folder; writes report.html, the front as tables, and its plots there.
Of several folders, those of one label (label=folder) are runs of one group, such as seeds of one setting.

Examples:
    python -m analysis.report runs/quickstart
    python -m analysis.report all=runs/a all=runs/b one=runs/c --out compared
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.report.comparison import write_comparison
from analysis.report.document import Report, write
from analysis.selection.standing_answers import Answer, recommend
from analysis.table import TableError, load


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report; return 0, or 2 with one line on stderr if a folder cannot be read or written."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder",
        nargs="+",
        help="run folder, such as runs/<study>; several are compared; label=folder puts a run into a group",
    )
    parser.add_argument("--no-images", action="store_true", help="do not draw PNG, SVG and PDF (they need a browser)")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder for the files (default: the run folder; for several, the folder that contains the first)",
    )
    asked = parser.parse_args(arguments)
    no_answers: tuple[Answer, ...] = ()
    try:
        if len(asked.folder) > 1:
            where = asked.out or Path(asked.folder[0].rpartition("=")[2]).parent
            report, answers = write_comparison(asked.folder, where), no_answers
        else:
            report = write(asked.folder[0], images=not asked.no_images, out=asked.out)
            answers = recommend(load(asked.folder[0]))
    except (TableError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for answer in answers:
        print(answer.sentence)
    _print_files(report)
    return 0


def _print_files(report: Report) -> None:
    print(f"report: {report.html}")
    for file in report.files:
        print(f"file: {file}")
    for message in report.messages:
        print(f"note: {message}")


if __name__ == "__main__":
    sys.exit(main())
