"""Description of a study on its MLflow page."""

from collections.abc import Sequence
from pathlib import Path

from analysis.wording import head, plural
from sweeps.experiment.front import Front
from sweeps.views.paths import FRONT
from sweeps.views.state import State


def study_note(state: State, front: Front, answers: Sequence[str], folder: Path) -> str:
    """Write the description that MLflow shows on the study's page, in Markdown."""
    objectives = [meter.name for meter in state.card.objectives]
    tested = list(dict.fromkeys(meter for name in front.members for meter in state.tested.get(name, {})))[:1]
    heads = {meter.name: head(meter.name, meter.kind, meter.direction) for meter in state.card.meters}
    titles = ["point", "sequence", *(heads[name] for name in objectives)]
    titles += [f"{heads[name]} (held-out test)" for name in tested]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    points = state.points
    rows = sorted(front.members, key=lambda name: points[name].values(objectives)[0])
    for name in rows[:50]:
        cells = [name, str(points[name].moves), *(f"{value:.5g}" for value in points[name].values(objectives))]
        known = state.tested.get(name, {})
        cells += [f"{known[meter].value:.5g}" if meter in known else "–" for meter in tested]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    if len(rows) > 50:
        lines.append(f"\n… and {len(rows) - 50} more")
    said = "\n".join(f"- {answer}" for answer in answers)
    return "\n\n".join(
        part
        for part in (
            f"**Front of {state.card.config.name}**: {plural(len(front.members), 'point')}, "
            f"hypervolume {front.hypervolume:.4f}. "
            "The interactive report is `report/report.html` under Artifacts.",
            "\n".join(lines),
            said,
            "\n".join(f"- {warning}" for warning in state.warnings),
            f'Load a point: `kmr.load("{folder / FRONT}/<point>")`',
            f"Run again: `{state.card.command}`" if state.card.command else "",
        )
        if part
    )
