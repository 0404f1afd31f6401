"""Report as a file: the filled-in page, and the exports beside it."""

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
_SCRIPTS = ("base", "front", "explorer", "card", "limit", "figures")


@dataclass(frozen=True)
class Report:
    """The page, the exported files, and a message for each kind of file that could not be written."""

    html: Path
    files: tuple[Path, ...]
    messages: tuple[str, ...]


def write(folder: str | Path, images: bool = True, out: str | Path | None = None, time_limit: float = 120.0) -> Report:
    """Write `report.html`, the exports of the front and, with `images`, PNG, SVG and PDF of the figures.

    The files go to `out`, by default the run folder. Drawing takes at most `time_limit` seconds; if it fails, the
    report is still written. Raises TableError if the run folder cannot be read and OSError if a file cannot be written.
    """
    table = load(folder)
    target = Path(out) if out is not None else table.folder
    target.mkdir(parents=True, exist_ok=True)
    html = render("report", page=page(table), figures=_figures(table), data=embed(payload(table)))
    # The page comes first, so that it exists even if drawing is interrupted.
    path = write_bytes(target / "report.html", html.encode("utf-8"))
    exported = export(table, target, images=images, time_limit=time_limit)
    return Report(path, exported.files, exported.messages)


def render(template: str, **values: object) -> str:
    """Fill in a template of this package with the values, the style, the scripts and plotly."""
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
    return {name: embed_figure(figure) for name, figure in drawn.items()}


def embed_figure(figure: go.Figure) -> Markup:
    """Write a figure as JSON that cannot end its script element."""
    return embed(json.loads(figure.to_json()))


def embed(value: object) -> Markup:
    """Write a value as JSON that cannot end its script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
