"""The page is whole, offline and safe, whatever is in the run folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from analysis import report
from analysis.report.__main__ import main
from analysis.selection.standing_answers import recommend
from analysis.table import StudyTable, TableError, save

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


class Reader(HTMLParser):
    """Collects the text outside scripts and styles, the tags, and every address a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.scripts: dict[str, str] = {}
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.fetched += [str(given[name]) for name in ("src", "href", "action") if name in given]
        if tag in ("script", "style"):
            self._inside = given.get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[self._inside] = self.scripts.get(self._inside, "") + data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write(folder, images=False, out=tmp_path_factory.mktemp("out")).html


def test_the_page_answers_and_accounts(page: Path, table: StudyTable) -> None:
    text = read(page).text
    for answer in recommend(table):
        assert answer.question in text
        assert answer.validation in text
        assert answer.test in text
    for part in (
        "digits-demo",
        "Search for lowest weight_bytes and highest accuracy",
        "Held-out test",
        "Order within the noise",
        "MemoryError: out of memory",
        "layer head skipped because its rank is 1",
        "fine-tuning",
        "kmr.load(",
        "resume=true",
        "mlflow ui --backend-store-uri",
        "Example CPU, 8 cores",
        "0123456789abcdef (clean)",
        "torch 2.13.0",
        "20 min 34 s",
    ):
        assert part in text, part


def test_the_front_table_has_validation_and_test(page: Path, table: StudyTable) -> None:
    shown = page.read_text().split('aria-label="Members of the front"')[1].split("</table>")[0]
    rows = [row.split("</tr>")[0] for row in shown.split('<th scope="row" class="point">')[1:]]
    members = [row.split("<")[0] for row in rows]
    complete = table.frame[table.frame["test/accuracy"].notna()].sort_values("meter/weight_bytes")
    assert members == ["baseline", *complete["point"]]
    for row, value in zip(rows[1:], complete["test/accuracy"], strict=True):
        assert f'class="number test" data-value="{value}">{value:.2f}'[:-1] in row


def test_the_page_fetches_nothing_and_inlines_plotly_once(page: Path) -> None:
    reader = read(page)
    assert reader.fetched == []
    assert reader.tags.count("script") == len(FIGURES) + 3
    html = page.read_text()
    assert html.count("plotly.js v") == 1
    assert "default-src 'none'" in html
    assert "@import" not in read(page).scripts["style"]
    assert "showSendToCloud: false" in html


FIGURES = ("figure-hypervolume", "figure-training", "figure-importance", "figure-parallel", "figure-contribution")


def test_figures_travel_as_json(page: Path) -> None:
    scripts = read(page).scripts
    assert "<" not in scripts["study-data"]
    for name in FIGURES:
        assert "<" not in scripts[name]
        assert json.loads(scripts[name])["data"]


def test_html_in_names_stays_text(make: Callable, tmp_path: Path) -> None:
    frame, meta = make(trials=8)
    frame = frame.assign(
        technique=EVIL, notes=EVIL, artifact=EVIL, mlflow_run_id=EVIL, sequence=json.dumps([[EVIL, 1]])
    )
    frame = frame.rename(columns={"knob/quantize.bits": f"knob/{EVIL}"})
    frame.loc[0, ["state", "error"]] = ["failed", EVIL]
    save(tmp_path, frame, {**meta, "study": EVIL, "resume": EVIL, "config": {EVIL: EVIL}, "git": EVIL})
    reader = read(report.write(tmp_path, images=False).html)
    assert reader.tags.count("script") == len(FIGURES) + 3
    assert "img" not in reader.tags
    assert EVIL in reader.text


def _only_failures(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(state="failed", error="ValueError: no").drop(columns=["meter/accuracy", "stderr/accuracy"])


SHAPES: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "empty": (lambda frame: frame.iloc[:0], "The study has no points yet."),
    "only failures": (_only_failures, "There is no front because no point is complete"),
    "one point": (lambda frame: frame.iloc[1:2], "Members of the front"),
    "NaN": (lambda frame: frame.assign(**{"meter/accuracy": frame["meter/accuracy"].where(frame.index != 4)}),
            "1 complete point lacks a finite accuracy and is left out"),
    "missing meter": (lambda frame: frame.drop(columns=["meter/accuracy"]), "no values of the objective accuracy"),
    "bare": (lambda frame: frame[["point", "trial", "step", "state"]], "no values of the objective weight_bytes"),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_edge_cases_give_a_clear_page(make: Callable, tmp_path: Path, shape: str) -> None:
    change, said = SHAPES[shape]
    frame, meta = make(trials=3, seed=1)
    save(tmp_path, change(frame), meta)
    written = report.write(tmp_path, images=False)
    assert said in read(written.html).text
    assert written.messages == ()


@pytest.mark.parametrize("objectives", [("accuracy",), ("weight_bytes", "latency_ms", "accuracy")])
def test_one_and_three_objectives(make: Callable, tmp_path: Path, objectives: tuple[str, ...]) -> None:
    save(tmp_path, *make(trials=10, objectives=objectives))
    text = read(report.write(tmp_path, images=False).html).text
    assert "Which model to take" in text
    assert "Search for" in text


def test_a_bare_meta_file_is_enough(make: Callable, tmp_path: Path) -> None:
    frame, meta = make(trials=3)
    save(tmp_path, frame, {key: meta[key] for key in ("format", "study", "objectives", "meters")})
    text = read(report.write(tmp_path, images=False).html).text
    assert "does not state a reference point" in text
    assert "The baseline's accuracy is not known" in text


def test_a_password_in_an_address_is_masked(make: Callable, tmp_path: Path) -> None:
    frame, meta = make(trials=3)
    uri = "postgresql://ann:s3cret@host:5432/db"
    meta |= {
        "mlflow": {"uri": uri, "ui": f"mlflow ui --backend-store-uri {uri}"},
        "config": {"storage": uri},
        "resume": uri,
    }
    save(tmp_path, frame, meta)
    html = report.write(tmp_path, images=False).html.read_text()
    assert "s3cret" not in html
    assert html.count("postgresql://ann:***@host:5432/db") == 4


def test_write_reports_its_files(folder: Path, tmp_path: Path) -> None:
    written = report.write(folder, images=False, out=tmp_path / "a" / "b")
    assert written.html == tmp_path / "a" / "b" / "report.html"
    assert [path.name for path in written.files] == ["front.csv", "front.parquet", "front.json", "front.tex"]
    with pytest.raises(TableError, match="no such folder"):
        report.write(tmp_path / "nothing")


def test_command_line(folder: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "analysis.report",
        str(folder),
        "--no-images",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"report: {tmp_path / 'report.html'}" in done.stdout
    assert re.search(r"Lowest weight_bytes .* on validation, .* on held-out test", done.stdout)


def test_command_line_names_what_is_wrong(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    for arguments in ([str(tmp_path / "nothing")], [str(tmp_path)], [str(folder), "--out", str(tmp_path / "file")]):
        assert main([*arguments, "--no-images"]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
        assert str(tmp_path) in said.err
