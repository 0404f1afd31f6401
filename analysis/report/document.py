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
from analysis.exporting.export import export
from analysis.plots import hypervolume_history, knob_importance, parallel, pareto, technique_contribution
from analysis.plots.profiles import degradation_profiles, has_profiles
from analysis.report.page import page
from analysis.report.payload import payload
from analysis.table import StudyTable, load

_HERE = Path(__file__).parent
_SCRIPTS = ("base", "front", "explorer", "card", "budget", "figures")


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
    html = render("report", page=page(table), figures=_figures(table), data=embedded(payload(table)))
    # The page comes first: it is there even when drawing the pictures is cut short.
    path = write_bytes(target / "report.html", html.encode("utf-8"))
    exported = export(table, target, images=images, time_limit=time_limit)
    return Report(path, exported.files, exported.messages)


def render(template: str, **values: object) -> str:
    """Fill in one of the package's templates, with the style, the scripts and plotly beside the values given."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(f"{template}.html.jinja").render(
        style=Markup((_HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup("\n".join((_HERE / "script" / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)),
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),
        **values,
    )


def _figures(table: StudyTable) -> dict[str, Markup]:
    drawn = {
        "hypervolume": hypervolume_history(table),
        "training": hypervolume_history(table, against="training"),
        "importance": knob_importance(table),
        "parallel": parallel(table),
    }
    if len(table.objectives) == 1:
        drawn["strip"] = pareto(table)
    if has_profiles(table):
        drawn["profiles"] = degradation_profiles(table)
    if table.frame["technique"].notna().any():
        drawn["contribution"] = technique_contribution(table)
    return {name: embedded_figure(figure) for name, figure in drawn.items()}


def embedded_figure(figure: go.Figure) -> Markup:
    """Write a figure as JSON that cannot end the script element around it."""
    return embedded(json.loads(figure.to_json()))


def embedded(value: object) -> Markup:
    """Write a value as JSON that cannot end the script element around it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
