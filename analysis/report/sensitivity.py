"""Page of a sensitivity scan: the heat map, the losses as numbers, and the groups of layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis.atomic import write_bytes
from analysis.plots.sensitivity import sensitivity
from analysis.report.document import embed_figure, render
from analysis.sensitivity import LayerGroup
from analysis.wording import NOTHING, quantity


class Scan(NamedTuple):
    """The subject of a scan: the study, the rule, the quality with its unit, and the base model's value."""

    study: str
    rule: str
    quality: str
    unit: str
    baseline: float


class LayerLoss(NamedTuple):
    """A cell: the loss as text and as a number, and the reason if it could not be measured."""

    text: str
    number: float | str
    why: str


def write_sensitivity(
    scan: pd.DataFrame, about: Scan, path: str | Path, groups: Sequence[LayerGroup] = (), command: str = ""
) -> Path:
    """Write a scan as one page that needs no network.

    Args:
        scan: `layer`, `value` and `lost`; `stderr`, `together` and `why` are optional.
        about: the subject of the scan.
        path: the file to write.
        groups: layers of similar sensitivity.
        command: a command that searches with these groups.
    """
    values = sorted(scan["value"].unique())
    ordered = scan.groupby("layer", sort=False)["lost"].mean().sort_values(kind="stable", na_position="last").index
    page = {
        **about._asdict(),
        "baseline": quantity(about.baseline, about.unit),
        "knob_values": [f"{value:g}" for value in values],
        "rows": [_row(scan[scan["layer"] == layer], str(layer), values, about.unit) for layer in ordered],
        "groups": [_group(group, values, about.unit) for group in groups],
        "command": command,
    }
    figures = {"map": embed_figure(sensitivity(scan, about.quality))}
    return write_bytes(Path(path), render("sensitivity", page=page, figures=figures).encode("utf-8"))


def _row(found: pd.DataFrame, layer: str, values: Sequence[float], unit: str) -> dict[str, Any]:
    cells = []
    for value in values:
        entry = found[found["value"] == value]
        lost = float(entry["lost"].iloc[0]) if len(entry) else math.nan
        stderr = float(entry["stderr"].iloc[0]) if len(entry) and "stderr" in entry else math.nan
        why = entry["why"].iloc[0] if len(entry) and "why" in entry else ""
        number: float | str = lost if math.isfinite(lost) else ""
        cells.append(LayerLoss(quantity(lost, unit, stderr), number, why if isinstance(why, str) else ""))
    words = str(found["together"].iloc[0]).split() if "together" in found else []
    return {"layer": layer, "together": ", ".join(word for word in words if word != layer), "cells": cells}


def _group(group: LayerGroup, values: Sequence[float], unit: str) -> dict[str, Any]:
    losses = [quantity(group.lost[value], unit) if value in group.lost else NOTHING for value in values]
    return {"name": group.name, "layers": ", ".join(group.layers), "losses": losses}
