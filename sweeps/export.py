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
from kmr.meters.runtime_check import TOLERANCE, Check, check
from kmr.runtimes import Eager, OnnxRuntime, Session
from kmr.runtimes.onnx_graph import annotate
from kmr.runtimes.onnxruntime import PRECISIONS, OnnxSession
from kmr.runtimes.program import described_inputs
from kmr.runtimes.pt2 import ProgramSession, load_pt2, save_pt2
from sweeps.errors import SweepError
from sweeps.experiment.front_artifacts import FOLDER, artifact_path
from sweeps.experiment.instantiate import part
from sweeps.terminal.arguments import command_line

FORMATS = ("onnx", "pt2", "packed")
_CONFIG = "config.yaml"


@dataclass(frozen=True, eq=False)
class Source:
    """What is exported: a saved model, the point's name, and the folder of the study where it is known."""

    folder: Path
    point: str
    study: Path | None

    @property
    def card(self) -> artifact.Card:
        """What the artifact says of itself."""
        return artifact.read(self.folder)

    @property
    def notes(self) -> dict[str, Any]:
        """What goes with the model into the file: knobs, meters, preprocessing, versions."""
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
class Exported:
    """What was written."""

    path: Path
    form: str
    check: Check | None


def locate(source: Path, *, trial: int | None = None, point: str | None = None) -> Source:
    """Find a saved model: in a study's folder (or one with the artifacts of its MLflow run), or as such.

    Args:
        source: the folder of the study, or of one saved model.
        trial: a trial's number; of its points on the front the last.
        point: a point's name, `12.3`.

    Raises:
        SweepError: there is none there; the message says which there are.
    """
    if (source / artifact.CARD).is_file():
        study = source.parent.parent if source.parent.name == FOLDER else None
        return Source(source, str(artifact.read(source).extra.get("point", source.name)), study)
    if not (source / FOLDER).is_dir():
        raise SweepError(f"{source} is neither a study's folder (with {FOLDER}/) nor a saved model ({artifact.CARD})")
    members = sorted((p.name for p in artifact_path(source, "").iterdir() if (p / artifact.CARD).is_file()), key=_order)
    there = f"the front has {', '.join(members) or 'no point'}"
    if point is None and trial is None:
        raise SweepError(f"say which point: --point or --trial; {there}")
    wanted = [name for name in members if name == point or (point is None and name.split(".")[0] == str(trial))]
    if not wanted:
        what = f"point {point}" if point is not None else f"trial {trial}"
        raise SweepError(f"{what} has no saved model, which points on the front have alone: {there}")
    return Source(artifact_path(source, wanted[-1]), wanted[-1], source)


def export(
    source: Source,
    form: str,
    path: Path,
    *,
    precision: str = "auto",
    trusted: Sequence[str] = (),
    with_data: bool = True,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Write a saved model in a form.

    Args:
        source: what.
        form: `onnx`, `pt2` or `packed` (the folder as it is: safetensors and JSON).
        path: where; nothing may be there.
        precision: of ONNX, see `kmr.runtimes.OnnxRuntime`.
        trusted: modules whose code the model or its data may run.
        with_data: whether to make the study's data, to calibrate and to check.
        tolerance: of the check.

    Raises:
        SweepError, KMRError: it cannot be made.
    """
    if path.exists():
        raise SweepError(f"{path} is there already: choose another with --out, or remove it")
    if form == "packed":
        if artifact.digest(source.folder) != source.card.sha256:
            raise SweepError(f"{source.folder} is damaged: its weights are not those its {artifact.CARD} describes")
        shutil.copytree(source.folder, path)
        return Exported(path, form, None)
    model = artifact.load(source.folder, trusted_modules=trusted)
    data = _data(source, trusted) if with_data else None
    example = _example(source, data)
    if form == "onnx":
        return _to_onnx(source, model, example, data, path, precision, tolerance)
    signature = save_pt2(path, model, example, source.notes)
    program = ProgramSession(load_pt2(path)[0], signature, 1)
    return Exported(path, form, _check(model, example, program, data, tolerance))


def _to_onnx(
    source: Source, model: nn.Module, example: Inputs, data: Data | None, path: Path, precision: str, tolerance: float
) -> Exported:
    runtime = OnnxRuntime(precision=precision)  # type: ignore[arg-type]
    calibration = None if data is None else data.train
    graph, signature = runtime.export(model, example, calibration=calibration)
    found = _check(model, example, OnnxSession(graph.SerializeToString(), signature, 1), data, tolerance)
    chosen = runtime.precision_of(model)
    told: Mapping[str, Any] = {**source.notes, "precision": chosen, "check": None if found is None else asdict(found)}
    path.write_bytes(annotate(graph, told).SerializeToString())
    return Exported(path, f"onnx, {chosen}", found)


def _check(model: nn.Module, example: Inputs, made: Session, data: Data | None, tolerance: float) -> Check | None:
    if data is None:
        return None
    return check(Eager().prepare(model, example), made, data.validation, tolerance=tolerance)


def _data(source: Source, trusted: Sequence[str]) -> Data | None:
    """Make the study's data, as its config says."""
    config = None if source.study is None else source.study / _CONFIG
    if config is None or not config.is_file():
        return None
    plain: Any = OmegaConf.to_container(OmegaConf.load(config), resolve=True)
    made = part("data", plain["data"], tuple(trusted))
    return as_data(made, int(plain.get("eval_batch_size", 500)))


def _example(source: Source, data: Data | None) -> Inputs:
    if data is not None:
        return data.train.first_inputs()
    described = source.card.extra.get("inputs")
    if described is None:
        raise SweepError(f"{source.folder} does not say what its inputs are, and there is no config.yaml of its study")
    return described_inputs(described)


def _order(name: str) -> tuple[float, ...]:
    return tuple(float(part) if part.isdigit() else -1.0 for part in name.split("."))


def _default_path(source: Source, form: str, precision: str) -> Path:
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
    """Export; return 0, 1 where the check is outside the tolerance, 2 where nothing could be written."""
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
