"""Export a model of the front to a file to deploy: ONNX, a torch program (pt2), or the packed folder.

The file is read again and compared with the saved model on the study's validation data; the difference is printed and
kept in the file. Without the study's config and data (--no-data) nothing is compared.

Examples:
    python -m sweeps.export runs/quickstart --point 12.3 --to onnx
    python -m sweeps.export runs/quickstart --trial 12 --to pt2 --out small.pt2
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from torch import nn

from kmr.artifact import folder as artifact
from kmr.core import KMRError
from kmr.data import Data, Inputs, as_data
from kmr.data.description import described_inputs
from kmr.meters.runtime_check import TOLERANCE, Check, check
from kmr.runtimes import Eager, OnnxRuntime, Session
from kmr.runtimes.onnx_graph import annotate
from kmr.runtimes.onnxruntime import PRECISIONS, OnnxSession
from kmr.runtimes.pt2 import ProgramSession, load_pt2, save_pt2
from kmr.runtimes.selected_output import with_selected_output
from sweeps.errors import SweepError
from sweeps.experiment.choose_task import with_task
from sweeps.experiment.front_artifacts import FRONT, artifact_path
from sweeps.experiment.instantiate import part
from sweeps.terminal.arguments import command_line
from sweeps.views.paths import CONFIG

FORMATS = ("onnx", "pt2", "packed")


@dataclass(frozen=True, eq=False)
class ExportSource:
    """Source of an export: a saved model, its point's name, and its study's folder if known."""

    folder: Path
    point: str
    study: Path | None

    @property
    def card(self) -> artifact.Card:
        """The artifact's card."""
        return artifact.read(self.folder)

    @property
    def notes(self) -> dict[str, Any]:
        """Metadata for the file: knobs, meters, preprocessing, versions."""
        card = self.card
        return {
            "study": card.extra.get("study"),
            "point": self.point,
            "knobs": [{"knob": move.knob, "value": move.value} for move in card.sequence],
            "meters": {name: {"value": r.value, "stderr": r.stderr} for name, r in card.readings.items()},
            "preprocessing": card.extra.get("preprocessing"),
            "versions": dict(card.versions),
        }


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """Exported file or folder, and the result of its check."""

    path: Path
    form: str
    check: Check | None


def locate(source: Path, *, trial: int | None = None, point: str | None = None) -> ExportSource:
    """Find a saved model by trial or point in a study's folder, or the artifacts of its MLflow run, or open one as is.

    Args:
        source: folder of the study, or of one saved model.
        trial: a trial's number, for the last of its points on the front.
        point: a point's name, such as `12.3`.

    Raises:
        SweepError: there is no such model; the message lists the saved ones.
    """
    if (source / artifact.CARD).is_file():
        study = source.parent.parent if source.parent.name == FRONT else None
        return ExportSource(source, str(artifact.read(source).extra.get("point", source.name)), study)
    if not (source / FRONT).is_dir():
        raise SweepError(
            f"{source} is neither a study's folder (no {FRONT}/) nor a saved model (no {artifact.CARD}):"
            " name a folder such as runs/<study>"
        )
    members = sorted((p.name for p in artifact_path(source, "").iterdir() if (p / artifact.CARD).is_file()), key=_order)
    saved = f"only front members are saved: {', '.join(members) or 'none yet'}"
    if point is None and trial is None:
        raise SweepError(f"no point is named: pass --point or --trial; {saved}")
    wanted = [name for name in members if name == point or (point is None and name.split(".")[0] == str(trial))]
    if not wanted:
        what = f"point {point}" if point is not None else f"trial {trial}"
        raise SweepError(f"{what} has no saved model; {saved}")
    return ExportSource(artifact_path(source, wanted[-1]), wanted[-1], source)


def export(
    source: ExportSource,
    form: str,
    path: Path,
    *,
    precision: str = "auto",
    trusted: Sequence[str] = (),
    with_data: bool = True,
    tolerance: float = TOLERANCE,
) -> ExportedModel:
    """Write a saved model in a deployment format.

    Args:
        source: the model to export.
        form: `onnx`, `pt2` or `packed` (a copy of the folder: safetensors and JSON).
        path: file or folder to write, which must not exist.
        precision: precision of ONNX, see `kmr.runtimes.OnnxRuntime`.
        trusted: modules whose code the model or its data may run.
        with_data: whether to load the study's data, for calibration and for the check.
        tolerance: tolerance of the check.

    Raises:
        SweepError, KMRError: the export fails.
    """
    if path.exists():
        raise SweepError(f"{path} exists already: choose another with --out, or remove it")
    if form == "packed":
        if artifact.digest(source.folder) != source.card.sha256:
            raise SweepError(
                f"{source.folder} is damaged: its weights do not match {artifact.CARD}; run the sweep again to save it"
            )
        shutil.copytree(source.folder, path)
        return ExportedModel(path, form, None)
    model = artifact.load(source.folder, trusted_modules=trusted)
    data = _data(source, model, trusted) if with_data else None
    example = _example(source, data)
    model = with_selected_output(model, None if data is None else data.validation.task)
    if form == "onnx":
        return _to_onnx(source, model, example, data, path, precision, tolerance)
    signature = save_pt2(path, model, example, source.notes)
    program = ProgramSession(load_pt2(path)[0], signature, 1)
    return ExportedModel(path, form, _check(model, example, program, data, tolerance))


def _to_onnx(
    source: ExportSource,
    model: nn.Module,
    example: Inputs,
    data: Data | None,
    path: Path,
    precision: str,
    tolerance: float,
) -> ExportedModel:
    runtime = OnnxRuntime(precision=precision)  # type: ignore[arg-type]
    calibration = None if data is None else data.train
    graph, signature = runtime.export(model, example, calibration=calibration)
    found = _check(model, example, OnnxSession(graph.SerializeToString(), signature, 1), data, tolerance)
    chosen = runtime.precision_of(model)
    told: Mapping[str, Any] = {**source.notes, "precision": chosen, "check": None if found is None else asdict(found)}
    path.write_bytes(annotate(graph, told).SerializeToString())
    return ExportedModel(path, f"onnx, {chosen}", found)


def _check(model: nn.Module, example: Inputs, made: Session, data: Data | None, tolerance: float) -> Check | None:
    if data is None:
        return None
    return check(Eager().prepare(model, example), made, data.validation, tolerance=tolerance)


def _data(source: ExportSource, model: nn.Module, trusted: Sequence[str]) -> Data | None:
    """Load the study's data, with its task, from its config; return None without a config."""
    config = None if source.study is None else source.study / CONFIG
    if config is None or not config.is_file():
        return None
    plain: Any = OmegaConf.to_container(OmegaConf.load(config), resolve=True)
    made = part("data", plain["data"], tuple(trusted))
    return with_task(model, as_data(made, int(plain.get("eval_batch_size", 500))), plain, tuple(trusted))


def _example(source: ExportSource, data: Data | None) -> Inputs:
    if data is not None:
        return data.train.first_inputs()
    described = source.card.extra.get("inputs")
    if described is None:
        raise SweepError(
            f"{source.folder} does not say what its inputs are, and no {CONFIG} of its study was found: export from "
            "the study's folder"
        )
    return described_inputs(described)


def _order(name: str) -> tuple[float, ...]:
    return tuple(float(part) if part.isdigit() else -1.0 for part in name.split("."))


def _default_path(source: ExportSource, form: str, precision: str) -> Path:
    study = source.card.extra.get("study") or "model"
    named = f"{study}-{source.point}" + (f"-{precision}" if form == "onnx" and precision != "auto" else "")
    return Path(named if form == "packed" else f"{named}.{form}")


def _parser() -> argparse.ArgumentParser:
    parser = command_line("sweeps.export", __doc__)
    parser.add_argument("source", type=Path, help="runs/<study>, the artifacts of its MLflow run, or one saved model")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--trial", type=int, help="a trial's number: the last of its points on the front")
    which.add_argument("--point", help="a point's name, as the report has it: 12.3")
    parser.add_argument("--to", choices=FORMATS, required=True)
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of onnx; auto is what the model is")
    parser.add_argument("--out", type=Path, help="where to write; default <study>-<point>.<to> here")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="of the check (default %(default)s)")
    parser.add_argument("--trust", action="append", default=[], metavar="MODULE", help="a module whose code may run")
    parser.add_argument("--no-data", action="store_true", help="write without the study's data, and without a check")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Export a model; return 0, 1 if the check exceeds the tolerance, 2 with one line on stderr if the export fails."""
    options = _parser().parse_args(argv)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    try:
        source = locate(options.source, trial=options.trial, point=options.point)
        path = options.out or _default_path(source, options.to, options.precision)
        written = export(
            source, options.to, path,
            precision=options.precision, trusted=options.trust, with_data=not options.no_data,
            tolerance=options.tolerance,
        )  # fmt: skip
    except (SweepError, KMRError) as error:
        more = "; here: --trust MODULE" if "trusted_modules" in str(error) else ""
        Console(stderr=True).print(f"error: {error}{more}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    files = [written.path] if written.path.is_file() else sorted(written.path.iterdir())
    console.print(f"{written.path} ({written.form}): {sum(file.stat().st_size for file in files):,} B")
    if options.to != "packed":
        console.print(f"checked: {written.check}" if written.check is not None else "not checked: no validation data")
    return 0 if written.check is None or written.check.passed else 1


if __name__ == "__main__":
    sys.exit(main())
