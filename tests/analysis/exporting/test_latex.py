"""The LaTeX table: every character set, every value in its column."""

from __future__ import annotations

import json

from analysis.exporting.latex import escape_latex, latex_table
from analysis.front import front_frame
from analysis.table import StudyTable


def test_special_characters() -> None:
    assert (
        escape_latex(r"a_b & 5% \x {y} ± <z>")
        == r"a\_b \& 5\% \textbackslash{}x \{y\} $\pm$ \textless{}z\textgreater{}"
    )


def test_a_row_for_every_member_and_the_baseline(table: StudyTable) -> None:
    text = latex_table(table)
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    front = front_frame(table)
    assert len(body) == len(front) + 1
    assert body[0].startswith("uncompressed & 438 kB & 0.9420 $\\pm$ 0.0074 & 0.9360")
    assert all(line.count(" & ") == 3 and line.endswith(r" \\") for line in body)
    assert r"weight\_bytes & accuracy & accuracy (test) \\" in text
    assert body[1].startswith(json.loads(front["sequence"].iloc[0])[0][0].replace("_", r"\_"))


def test_a_quality_to_minimise_has_an_arrow(table: StudyTable) -> None:
    objectives = [table.meta["objectives"][0], {"name": "accuracy", "direction": "minimize", "kind": "quality"}]
    turned = StudyTable(table.frame, {**table.meta, "meters": {}, "objectives": objectives}, table.folder)
    assert r"weight\_bytes & accuracy $\downarrow$ & accuracy $\downarrow$ (test) \\" in latex_table(turned)


def test_an_empty_front_and_a_bare_study(table: StudyTable) -> None:
    bare = StudyTable(table.frame.iloc[:0], {**table.meta, "baseline": {}, "study": "two\nlines"}, table.folder)
    assert latex_table(bare).splitlines()[0] == "% front of two lines"
    assert latex_table(bare).count(r"\\") == 1
