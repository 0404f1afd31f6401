"""`python -m analysis.report runs/<study>`: write the report of a run folder again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from analysis.recommend import recommend
from analysis.report.document import write
from analysis.table import TableError, load


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report; return 0, or 2 with one line on stderr when the folder cannot be read or written."""
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=__doc__)
    parser.add_argument("folder", help="run folder, such as runs/<study>")
    parser.add_argument("--no-images", action="store_true", help="write no PNG and SVG (they need a browser)")
    parser.add_argument(
        "--out", metavar="DIR", help="folder for the report and the exported files (default: the run folder)"
    )
    asked = parser.parse_args(arguments)
    try:
        report = write(asked.folder, images=not asked.no_images, out=asked.out)
        answers = recommend(load(asked.folder))
    except (TableError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for answer in answers:
        print(answer.sentence)
    print(f"report: {report.html}")
    for file in report.files:
        print(f"file: {file}")
    for message in report.messages:
        print(f"note: {message}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
