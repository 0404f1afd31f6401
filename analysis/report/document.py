"""Fill the page in and write it, with the exported files beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from analysis.atomic import write_bytes
from analysis.export import export
from analysis.plots import hypervolume_history, pareto
from analysis.report.page import page
from analysis.table import load

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Report:
    """The page, the files exported beside it, and what there is to say about those that could not be."""

    html: Path
    files: tuple[Path, ...]
    messages: tuple[str, ...]


def write(folder: str | Path, images: bool = True, out: str | Path | None = None, time_limit: float = 120.0) -> Report:
    """Write `report.html`, the front as CSV and Parquet and, with `images`, PNG and SVG of the plots.

    `out` is where they go, by default the run folder. Pictures take at most `time_limit` seconds and never fail the
    report. Raises TableError when the run folder cannot be read and OSError when a file cannot be written.
    """
    table = load(folder)
    target = Path(out) if out is not None else table.folder
    target.mkdir(parents=True, exist_ok=True)
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.get_template("report.html.jinja").render(
        page=page(table),
        figures={"pareto": _embedded(pareto(table)), "hypervolume": _embedded(hypervolume_history(table))},
        style=Markup((_HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup((_HERE / "report.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),
    )
    # The page comes first: it is there even when drawing the pictures is cut short.
    path = write_bytes(target / "report.html", html.encode("utf-8"))
    exported = export(table, target, images=images, time_limit=time_limit)
    return Report(path, exported.files, exported.messages)


def _embedded(figure: go.Figure) -> Markup:
    """Write a figure as JSON that cannot end the script element around it."""
    text = json.dumps(json.loads(figure.to_json()), separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
