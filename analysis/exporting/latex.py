"""LaTeX table of a front for a paper: booktabs, one row for each member, the baseline first."""

from __future__ import annotations

import math

from analysis.front import front_frame
from analysis.table import StudyTable
from analysis.wording import NOTHING, head, quantity, sequence

_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
_SIGNS = {"±": r"$\pm$", "×": r"$\times$", "–": "--", "…": r"\dots{}", "µ": r"\textmu{}", "↓": r"$\downarrow$",
          "→": r"$\rightarrow$"}  # fmt: skip


def escape_latex(text: str) -> str:
    """Escape text so that LaTeX typesets every character."""
    return "".join(_ESCAPES.get(character) or _SIGNS.get(character) or character for character in text)


def latex_table(table: StudyTable) -> str:
    """Return a `tabular` of the front: moves, objectives with standard errors, and held-out test values.

    The table needs the package booktabs and no other.
    """
    front = StudyTable(front_frame(table), table.meta, table.folder)
    tested = [name for name in table.meters if any(map(math.isfinite, front.column(f"test/{name}")))]
    tested = [name for name in tested if name in table.objectives] or tested[:1]
    heads = ["Moves", *(_head(table, name) for name in table.objectives)]
    heads += [f"{_head(table, name)} (test)" for name in tested]
    base = [quantity(*_of_baseline(table, name, test=False)) for name in table.objectives]
    base += [quantity(*_of_baseline(table, name, test=True)) for name in tested]
    rows = [["uncompressed", *base]] if any(cell != NOTHING for cell in base) else []
    columns = [_cells(front, name, "meter", "stderr") for name in table.objectives]
    columns += [_cells(front, name, "test", "test_stderr") for name in tested]
    for index, moves in enumerate(front.frame["sequence"]):
        rows.append([sequence(moves), *(column[index] for column in columns)])
    lines = [" & ".join(map(escape_latex, row)) + r" \\" for row in (heads, *rows)]
    start = [f"% front of {_one_line(table.study)}", r"\begin{tabular}{l" + "r" * (len(heads) - 1) + "}", r"\toprule"]
    return "\n".join([*start, lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}", ""])


def _head(table: StudyTable, name: str) -> str:
    return head(name, table.kind(name), table.direction(name))


def _of_baseline(table: StudyTable, name: str, test: bool) -> tuple[float, str, float]:
    value, stderr = table.baseline(name, test=test)
    return value, table.unit(name), stderr


def _cells(front: StudyTable, name: str, kind: str, stderr: str) -> list[str]:
    pairs = zip(front.column(f"{kind}/{name}"), front.column(f"{stderr}/{name}"), strict=True)
    return [quantity(value, front.unit(name), error) for value, error in pairs]


def _one_line(text: str) -> str:
    return " ".join(text.split())
