"""Files for other tools; pictures with a browser, without one, and with one that hangs."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from analysis.exporting.export import INSTALL_BROWSER, export, export_front, export_images
from analysis.exporting.render_images import find_browser
from analysis.front import front_frame
from analysis.plots import hypervolume_history, pareto
from analysis.table import StudyTable

TABLES = ["front.csv", "front.parquet", "front.json", "front.tex"]

needs_browser = pytest.mark.skipif(find_browser() is None, reason="no Chrome or Chromium found to draw pictures with")


def test_front_as_csv_and_parquet(table: StudyTable, tmp_path: Path) -> None:
    csv, parquet, _, _ = export_front(table, tmp_path / "new")
    front = front_frame(table)
    assert pd.read_parquet(parquet)["point"].tolist() == front["point"].tolist()
    read = pd.read_csv(csv, dtype={"point": str})
    assert read["point"].tolist() == front["point"].tolist()
    assert read["meter/accuracy"].tolist() == pytest.approx(front["meter/accuracy"].tolist())


def test_front_as_json(table: StudyTable, tmp_path: Path) -> None:
    path = export_front(table, tmp_path)[2]
    found = json.loads(path.read_text())
    front = front_frame(table)
    assert [entry["name"] for entry in found["objectives"]] == ["weight_bytes", "accuracy"]
    assert [member["meter/accuracy"] for member in found["front"]] == front["meter/accuracy"].tolist()
    assert found["front"][0]["sequence"] == json.loads(front["sequence"].iloc[0])
    assert "error" not in found["front"][0]


def test_an_empty_front_is_empty_files(table: StudyTable, tmp_path: Path) -> None:
    empty = StudyTable(table.frame.iloc[:0], table.meta, table.folder)
    _, parquet, record, _ = export_front(empty, tmp_path)
    assert len(pd.read_parquet(parquet)) == 0
    assert json.loads(record.read_text())["front"] == []


def test_without_images_only_tables(table: StudyTable, tmp_path: Path) -> None:
    exported = export(table, tmp_path, images=False)
    assert [path.name for path in exported.files] == TABLES
    assert exported.messages == ()
    assert {path.name for path in tmp_path.iterdir()} == set(TABLES)


@needs_browser
def test_pictures_are_drawn_with_one_browser(table: StudyTable, tmp_path: Path) -> None:
    figures = {"pareto": pareto(table), "hypervolume": hypervolume_history(table)}
    exported = export_images(figures, tmp_path, time_limit=120)
    assert exported.messages == ()
    assert [path.name for path in exported.files] == [
        f"{name}.{suffix}" for name in figures for suffix in ("png", "svg", "pdf")
    ]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in exported.files}
    with Image.open(tmp_path / "pareto.png") as image:
        assert image.size == (2000, 1360)
        assert len(image.convert("RGB").getcolors(maxcolors=2**24)) > 50
    assert "held-out test" in (tmp_path / "pareto.svg").read_text()
    assert (tmp_path / "pareto.pdf").read_bytes().startswith(b"%PDF")


def test_no_browser_is_a_message_with_the_way_out(
    table: StudyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nowhere"))
    exported = export(table, tmp_path, time_limit=60)
    assert exported.messages == (INSTALL_BROWSER,)
    assert "plotly_get_chrome" in INSTALL_BROWSER
    assert [path.name for path in exported.files] == TABLES


@pytest.mark.skipif(os.name != "posix", reason="the browser that hangs is a shell script")
def test_a_browser_that_hangs_is_stopped(table: StudyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "pid"
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\necho $$ > {marker}\nexec sleep 300\n")
    browser.chmod(browser.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("BROWSER_PATH", str(browser))
    start = time.monotonic()
    exported = export_images({"pareto": pareto(table)}, tmp_path / "out", time_limit=3)
    assert time.monotonic() - start < 100, "it was not waited for to its end"
    assert exported.files == ()
    assert "not all drawn: over 3 s" in exported.messages[0]
    assert list((tmp_path / "out").iterdir()) == []
    if Path("/proc").is_dir():
        assert marker.exists()
        assert not _runs(int(marker.read_text()))


def _runs(pid: int) -> bool:
    for _ in range(20):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state == "Z":
            return False
        time.sleep(0.1)
    return True


@needs_browser
def test_three_objectives_are_drawn_in_space_and_each_cost_against_the_quality(make: Callable, tmp_path: Path) -> None:
    frame, meta = make(trials=10, objectives=("latency_ms", "weight_bytes", "accuracy"))
    files = {path.name for path in export(StudyTable(frame, meta, tmp_path), time_limit=60).files}
    assert files >= {"pareto.png", "pareto_latency_ms.png", "pareto_weight_bytes.svg"}
