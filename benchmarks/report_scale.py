"""Growth of the report with the study: seconds to build, megabytes, and seconds until a browser shows it.

Synthetic studies have 100, 1,000 and 10,000 trials of up to three moves, with four meters, four knobs, errors and
notes. The baseline is a plain plotly page of the same points: one figure with the same hover texts, written by
`plotly.io.write_html` with plotly.js inlined.

Bar: 10,000 trials build in less than 5 seconds, without imports and images. The build runs on one thread. The bar is on
processor seconds, which other load on the machine does not change; the table also has wall seconds.

    python -m benchmarks.report_scale
    python -m benchmarks.report_scale --quick    # 100 and 1,000 trials, with the same bar
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from rich.console import Console
from rich.table import Table

from analysis import report
from analysis.exporting.render_images import find_browser
from analysis.table import StudyTable, load, save
from analysis.wording import quantity, sequence

BAR = 5.0
TECHNIQUES = ("structured", "lowrank", "quantize", "prune")
METERS = {"weight_bytes": ("B", "minimize"), "accuracy": ("fraction", "maximize"), "latency_ms": ("ms", "minimize"),
          "macs": ("MAC", "minimize")}  # fmt: skip


def make_study(folder: Path, trials: int) -> int:
    """Save a run folder with these trials, of whose models 2 % fail; return the number of points."""
    random = np.random.default_rng(trials)
    rows: list[dict[str, Any]] = []
    for trial in range(trials):
        size, loss, time_ms, moves = 1e6, 0.0, 8.0, []
        plan = random.permutation(4)[: random.integers(1, 4)]
        for step, index in enumerate(plan, start=1):
            strength = round(float(random.random()), 2)
            moves.append([f"{TECHNIQUES[index]}.strength", strength])
            size, time_ms = size * (1 - 0.9 * strength), time_ms * (1 - 0.5 * strength)
            loss += 0.2 * strength**3 + float(random.normal(0, 0.004))
            failed = random.random() < 0.02
            accuracy = min(max(0.93 - loss, 0.1), 1.0)
            rows.append(
                {
                    "point": f"{trial}.{step}", "trial": trial, "step": step, "last": step == len(plan),
                    "state": "failed" if failed else "complete",
                    "error": "RuntimeError: the loss is not finite" if failed else None,
                    "notes": "layer head left dense" if strength < 0.2 else "",
                    "technique": " + ".join(TECHNIQUES[i] for i in plan[:step]), "sequence": json.dumps(moves),
                    **{f"knob/{knob}": value for knob, value in moves},
                    "meter/weight_bytes": round(size), "meter/accuracy": accuracy, "meter/latency_ms": time_ms,
                    "meter/macs": 4e7 * size / 1e6, "stderr/accuracy": math.sqrt(accuracy * (1 - accuracy) / 5000),
                    "stderr/latency_ms": 0.02 * time_ms, "seconds/finetune": 4.0, "seconds/rule": 0.2,
                    "finished": f"2026-01-01T{trial // 3600 % 24:02d}:{trial // 60 % 60:02d}:{trial % 60:02d}+00:00",
                    "artifact": None, "mlflow_run_id": f"{trial:032x}",
                }
            )  # fmt: skip
            if failed:
                break
    meta = {
        "format": 1, "study": f"{trials} trials", "seed": 0,
        "objectives": [
            {"name": name, "unit": METERS[name][0], "direction": METERS[name][1]}
            for name in ("weight_bytes", "accuracy")
        ],
        "meters": {name: {"unit": unit, "direction": direction} for name, (unit, direction) in METERS.items()},
        "reference": {"weight_bytes": 1.1e6, "accuracy": 0.4}, "ideal": {"weight_bytes": 0.0, "accuracy": 0.93},
        "baseline": {"weight_bytes": {"value": 1e6}, "accuracy": {"value": 0.93}, "latency_ms": {"value": 8.0}},
        "trials": {"asked": trials}, "command": "python -m sweeps.run +exp=demo",
    }  # fmt: skip
    save(folder, pd.DataFrame(rows), meta)
    return len(rows)


def plain_page(table: StudyTable, path: Path) -> None:
    """Write the baseline page: one plotly figure with every point and its hover text."""
    frame = table.frame[table.complete]
    texts = [
        f"<b>{row.point}</b> {row.technique}<br>{sequence(row.sequence)}<br>"
        + "<br>".join(f"{name}: {quantity(getattr(row, f'm{i}'), table.unit(name))}" for i, name in enumerate(METERS))
        for row in frame.rename(columns={f"meter/{name}": f"m{i}" for i, name in enumerate(METERS)}).itertuples()
    ]
    figure = go.Figure()
    for technique in frame["technique"].unique():
        rows = (frame["technique"] == technique).to_numpy()
        shown = [text for text, keep in zip(texts, rows, strict=True) if keep]
        part = frame[rows]
        figure.add_scatter(
            x=part["meter/weight_bytes"], y=part["meter/accuracy"], mode="markers", name=str(technique),
            hovertext=shown, hoverinfo="text",
        )  # fmt: skip
    figure.write_html(path, include_plotlyjs=True)


def seconds_to_show(path: Path) -> float | None:
    """Return the seconds until headless Chromium has drawn a page's first plot; None without a browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    browser = find_browser()
    if browser is None:
        return None
    with sync_playwright() as started:
        made = started.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = made.new_page()
        start = time.perf_counter()
        page.goto(path.resolve().as_uri())
        page.wait_for_selector(".main-svg .point, .main-svg .points path", state="attached", timeout=120_000)
        taken = time.perf_counter() - start
        made.close()
    return taken


def main() -> int:
    """Print the table and the JSON line; return 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 and 1,000 trials")
    parser.add_argument("--no-browser", action="store_true", help="do not time a browser")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    shown = Table(title="report.html and a plain plotly page of the same points")
    for column in ("trials", "points", "page", "build s", "processor s", "MB", "shown after s"):
        shown.add_column(column, justify="right")
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        make_study(Path(folder) / "warm", 20)
        report.write(Path(folder) / "warm", images=False)  # loads imports and templates, which are not measured
        for trials in (100, 1000) if options.quick else (100, 1000, 10_000):
            place = Path(folder) / str(trials)
            points = make_study(place, trials)
            start = time.perf_counter(), time.process_time()
            page = report.write(place, images=False).html
            built = time.perf_counter() - start[0], time.process_time() - start[1]
            start = time.perf_counter(), time.process_time()
            plain_page(load(place), place / "plain.html")
            plain = time.perf_counter() - start[0], time.process_time() - start[1]
            for name, path, seconds in (("report", page, built), ("plotly", place / "plain.html", plain)):
                drawn = None if options.no_browser else seconds_to_show(path)
                entry = {
                    "trials": trials,
                    "points": points,
                    "page": name,
                    "seconds": round(seconds[0], 3),
                    "processor": round(seconds[1], 3),
                    "megabytes": round(path.stat().st_size / 1e6, 2),
                    "shown": None if drawn is None else round(drawn, 2),
                }
                found.append(entry)
                shown.add_row(*(str(value) if value is not None else "–" for value in entry.values()))
    Console(width=100).print(shown)
    worst = max(entry["processor"] for entry in found if entry["page"] == "report")
    passed = worst < BAR
    print(json.dumps({"benchmark": "report_scale", "bar_seconds": BAR, "pages": found, "passed": passed}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
