"""Export of a front for other tools: CSV, Parquet, JSON and LaTeX, and images where a browser is found."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import plotly.graph_objects as go

from analysis.atomic import write_bytes
from analysis.exporting.latex import latex_table
from analysis.exporting.render_images import NO_BROWSER
from analysis.front import front_frame
from analysis.plots import hypervolume_history, pareto
from analysis.table import StudyTable

INSTALL_BROWSER = (
    "PNG, SVG and PDF were not drawn: no browser found; run `plotly_get_chrome` or `apt-get install chromium`"
)
FORMATS = ("png", "svg", "pdf")


class Exported(NamedTuple):
    """Written files, and a message for each kind of file that could not be written."""

    files: tuple[Path, ...]
    messages: tuple[str, ...] = ()


def export(
    table: StudyTable, folder: str | Path | None = None, images: bool = True, time_limit: float = 120.0
) -> Exported:
    """Write the front and, with `images`, its figures into `folder` (the run folder by default).

    Drawing takes at most `time_limit` seconds; if it fails, the result has a message. Raises OSError where the tables
    cannot be written.
    """
    folder = table.folder if folder is None else Path(folder)
    tables = export_front(table, folder)
    if not images:
        return Exported(tables)
    pictures = {"pareto": pareto(table), "hypervolume": hypervolume_history(table), **_planes(table)}
    drawn = export_images(pictures, folder, time_limit)
    return Exported((*tables, *drawn.files), drawn.messages)


def _planes(table: StudyTable) -> dict[str, go.Figure]:
    """Draw each further objective of three or more in a plane, because a figure in space hides some points."""
    if len(table.objectives) < 3:
        return {}
    x, y = table.plane
    alike = [name for name in table.objectives if table.kind(name) == table.kind(x) and name != y]
    return {f"pareto_{name}": pareto(table, name, y) for name in alike}


def export_front(table: StudyTable, folder: str | Path) -> tuple[Path, ...]:
    """Write the front into `folder`, each file atomically.

    `front.csv` has the columns that are not empty, `front.parquet` all columns, `front.json` the objectives and a
    record for each member, and `front.tex` a table of objectives and held-out values.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    front = front_frame(table)
    buffer = io.BytesIO()
    front.to_parquet(buffer, index=False)
    known = front.dropna(axis="columns", how="all") if len(front) else front
    return (
        write_bytes(folder / "front.csv", known.to_csv(index=False).encode()),
        write_bytes(folder / "front.parquet", buffer.getvalue()),
        write_bytes(folder / "front.json", json.dumps(front_record(table), indent=1, ensure_ascii=False).encode()),
        write_bytes(folder / "front.tex", latex_table(table).encode()),
    )


def front_record(table: StudyTable) -> dict[str, Any]:
    """Return the front as plain values without the unknown ones, because JSON has no NaN."""
    members = []
    for row in front_frame(table).to_dict(orient="records"):
        member = {str(name): _plain(value) for name, value in row.items()}
        for name in ("sequence", "layers", "test_profile"):
            if isinstance(member.get(name), str):
                with contextlib.suppress(ValueError):
                    member[name] = json.loads(member[name])
        members.append({name: value for name, value in member.items() if value is not None})
    about = [
        {"name": name, "direction": direction, "kind": table.kind(name), "unit": table.unit(name)}
        for name, direction in zip(table.objectives, table.directions, strict=True)
    ]
    return {"study": table.study, "objectives": about, "front": members}


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool) else None


def export_images(figures: Mapping[str, go.Figure], folder: str | Path, time_limit: float = 120.0) -> Exported:
    """Draw every figure as `<name>.png`, `.svg` and `.pdf` with one browser, within `time_limit` seconds in all.

    Returns the drawn files, and a message if the browser is missing, fails or hangs.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".images-", dir=folder, ignore_cleanup_errors=True) as aside:
            return _draw(figures, folder, Path(aside), time_limit)
    except OSError as error:
        return Exported((), (f"PNG, SVG and PDF were not drawn: {error}",))


def _draw(figures: Mapping[str, go.Figure], folder: Path, aside: Path, time_limit: float) -> Exported:
    names = [f"{name}.{suffix}" for name in figures for suffix in FORMATS]
    images = [
        {"figure": json.loads(figures[Path(name).stem].to_json()), "path": str((aside / name).resolve())}
        | {"width": 1000, "height": 680, "scale": 2 if name.endswith("png") else 1}
        for name in names
    ]
    (aside / "figures.json").write_text(json.dumps({"images": images}), encoding="utf-8")
    code, log = _run(aside / "figures.json", aside / "log.txt", time_limit)
    files = tuple(
        write_bytes(folder / name, (aside / name).read_bytes())
        for name in names
        if (aside / name).is_file() and (aside / name).stat().st_size
    )
    match code:
        case 0:
            return Exported(files)
        case _ if code == NO_BROWSER:
            return Exported(files, (INSTALL_BROWSER,))
        case None:
            return Exported(
                files, (f"PNG, SVG and PDF were not all drawn: over {time_limit:g} s; --no-images skips them",)
            )
        case _:
            return Exported(files, (f"PNG, SVG and PDF were not drawn: {log}; --no-images skips them",))


def _run(figures: Path, log: Path, time_limit: float) -> tuple[int | None, str]:
    """Run the drawing process; return its exit code (None when stopped) and the last line it wrote."""
    # The log is a file because a browser process that keeps running would keep a pipe open.
    with log.open("wb") as stream:
        script = str(Path(__file__).with_name("render_images.py"))
        process = subprocess.Popen(
            [sys.executable, "-P", script, str(figures)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
        code: int | None
        try:
            code = process.wait(time_limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                _end(process)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return code, lines[-1][:200] if lines else f"exit code {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all its descendants; a browser has its own session, so a signal to the group misses it."""
    for pid in (*_descendants(process.pid), process.pid):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.wait(10)


def _descendants(pid: int) -> list[int]:
    """List the descendants of a process where the system has /proc; elsewhere a browser ends when its pipe closes."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name in brackets may hold blanks and brackets, so the fields start after the last bracket.
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(stat.parent.name))
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found
