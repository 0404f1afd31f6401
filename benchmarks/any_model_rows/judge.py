"""The way of one row: a sweep, its front, loading, an independent reading, and export."""

import contextlib
import importlib.util
import io
import json
import math
import os
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmarks.any_model_rows.plain import called, tensor_of
from benchmarks.any_model_rows.row import Row

WORKS, REFUSED, UNEXPECTED = "works", "clear error (expected)", "clear error (unexpected)"
WRONG, RAW, SKIPPED = "wrong number", "raw error", "skipped"
_CLOSE = 1e-4
_COLUMNS = (("value", "test"), ("stderr", "test_stderr"))
_ERRORS = ("mse", "mae", "cross_entropy", "perplexity", "bits_per_byte")


@dataclass
class Result:
    """The verdict on a row, with one reading beside ours."""

    name: str
    verdict: str
    why: str = ""
    meter: str = ""
    ours: float = math.nan
    plain: float = math.nan
    models: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    troubles: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Return the result as JSON."""
        return json.dumps(asdict(self))


class WrongNumber(Exception):
    """A value of ours that is not the right one."""


class ClearError(Exception):
    """A refusal by an error of this project's own."""


class RawError(Exception):
    """Any other error."""


def judge(row: Row, folder: Path) -> Result:
    """Run a row in an empty folder, which becomes the current one."""
    missing = [name for name in row.needs if importlib.util.find_spec(name) is None]
    if missing:
        return Result(row.name, SKIPPED, f"{', '.join(missing)} is not installed")
    os.chdir(folder)
    result = Result(row.name, WORKS)
    try:
        if row.refuses:
            _refusal(row, folder, result)
        else:
            _front(row, folder, result)
    except WrongNumber as error:
        result.verdict, result.why = WRONG, str(error)
    except ClearError as error:
        result.verdict, result.why = UNEXPECTED, str(error)
    except RawError as error:
        result.verdict, result.why = RAW, str(error)
    except Exception as error:  # of the project or of the row itself
        from kmr.core import KMRError
        from sweeps.errors import SweepError

        clear = isinstance(error, KMRError | SweepError)
        where = "" if clear else traceback.format_exc()[-1500:]
        result.verdict, result.why = UNEXPECTED if clear else RAW, f"{type(error).__name__}: {error} {where}"
    return result


def _refusal(row: Row, folder: Path, result: Result) -> None:
    code, _, errors = _sweep(row, folder)
    if code == 0:
        raise WrongNumber(f"must be refused ({', '.join(row.refuses)}), but ran without a word")
    if code != 2 or "KMR_TRACEBACK" in errors:
        raise RawError(errors)
    if lacking := [word for word in row.refuses if word not in errors]:
        raise ClearError(f"the message lacks {', '.join(map(repr, lacking))}: {errors}")
    result.verdict, result.why = REFUSED, errors


def _front(row: Row, folder: Path, result: Result) -> None:
    import kmr

    _run(row, folder)
    place = folder / "runs" / row.name
    frame = pd.read_parquet(place / "results.parquet").set_index("point")
    _check_trials(frame)
    base = _base(row, folder)
    meta = json.loads((place / "meta.json").read_text())
    _compare(row, base, _reported(row, meta["baseline_test"]), result, "base")
    _check_base_bytes(base, meta["baseline"]["weight_bytes"]["value"])
    _check_learned(row, base)
    members = sorted(path.name for path in (place / "front").iterdir())
    if not members:
        raise WrongNumber("no model of the front was saved")
    trusted = row.experiment()["trusted_modules"]
    techniques = frame["technique"].astype(str).to_dict()
    for member in members:
        loaded = kmr.load(place / "front" / member, trusted_modules=trusted)
        columns = {m: {k: frame.loc[member, f"{c}/{m}"] for k, c in _COLUMNS} for m in row.qualities}
        _compare(row, loaded, _reported(row, columns), result, f"{member} ({techniques[member]})")
        _check_bytes(place / "front" / member, frame.loc[member])
        if row.export is not None:
            _export(row, place, member, loaded, trusted)
    result.models = len(members)
    if row.resumes:
        _run(row, folder, f"trials={row.trials + 1}")
        again = pd.read_parquet(place / "results.parquet")
        if len(again) <= len(frame):
            raise WrongNumber("the study did not go on when it was run again")


def _run(row: Row, folder: Path, *overrides: str) -> None:
    code, _, errors = _sweep(row, folder, *overrides)
    if code != 0:
        raise (ClearError if code == 2 and "KMR_TRACEBACK" not in errors else RawError)(errors or f"exit code {code}")


def _sweep(row: Row, folder: Path, *overrides: str) -> tuple[int, str, str]:
    """Run the row's experiment as the command line does; return the exit code, the output and the errors."""
    from hydra import compose, initialize_config_module
    from rich.console import Console

    from sweeps.run import run

    (folder / "exp").mkdir(exist_ok=True)
    if row.files is not None:
        row.files(folder)
    (folder / "exp" / "row.yaml").write_text(
        "# @package _global_\n" + OmegaConf.to_yaml(OmegaConf.create(row.experiment()))
    )
    argv = [
        f"hydra.searchpath=[file://{folder}]", "+exp=row", "threads=1", "noise.seconds=0", "anchors=1",
        "report.images=false", "tracking.enabled=false", *overrides,
    ]  # fmt: skip
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with initialize_config_module("conf", version_base="1.3"):
            config = compose("config", overrides=argv)
        code = run(config, argv, Console(file=printed, width=200))
    return code, printed.getvalue(), " ".join(errors.getvalue().split())


def _check_trials(frame: pd.DataFrame) -> None:
    """Raise where a trial failed, or where no trial but the base gave a model."""
    failed = frame[frame["state"] == "failed"]
    for number, error in zip(failed["trial"].tolist(), failed["error"].astype(str).tolist(), strict=True):
        clear = error.startswith(("KMRError", "SweepError", "NonFiniteReading", "NotApplicable", "NotHere"))
        raise (ClearError if clear else RawError)(f"trial {number}: {error}")
    if not ((frame["state"] == "complete") & (frame["trial"] >= 0)).any():
        why = "; ".join(map(str, frame["error"].dropna().unique()))
        raise ClearError(f"no trial gave a model: {why}")


def _base(row: Row, folder: Path) -> nn.Module:
    """Return the base model: as built, or with the weights that the sweep trained."""
    from safetensors.torch import load_model

    with contextlib.redirect_stdout(io.StringIO()):
        model: nn.Module = row.base() if row.base is not None else row.build(**row.settings.get("model", {}))
    if row.epochs is not None:
        (trained,) = (folder / "runs" / ".cache").glob("base-*.safetensors")
        load_model(model, str(trained))
    return model.eval()


def _reported(row: Row, readings: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return value and standard error of each quality; NaN where there is none."""

    def number(found: Any) -> float:
        return math.nan if found is None else float(found)

    return {name: (number(readings[name]["value"]), number(readings[name]["stderr"])) for name in row.qualities}


def _compare(
    row: Row, model: nn.Module, reported: Mapping[str, tuple[float, float]], result: Result, what: str
) -> None:
    """Compare a model's reported qualities with those that the row computes."""
    assert row.truth is not None
    right = row.truth(model)
    for meter in row.qualities:
        (ours, error), plain = reported[meter], float(right[meter])
        if meter == row.qualities[0]:
            result.meter, result.ours, result.plain = meter, ours, plain
        if not abs(ours - plain) <= _CLOSE * max(1.0, abs(plain)):
            raise WrongNumber(f"{what}: {meter} is {plain:.6g} in plain PyTorch, reported is {ours:.6g}")
        if not error > 0:
            raise WrongNumber(f"{what}: the standard error of {meter} is {error}")


def _check_learned(row: Row, base: nn.Module) -> None:
    assert row.truth is not None
    right = row.truth(base) if row.learns else {}
    for meter, bar in row.learns.items():
        if not (right[meter] <= bar if meter in _ERRORS else right[meter] >= bar):
            raise WrongNumber(f"the trained base model has {meter} {right[meter]:.4g}, plain training reaches {bar}")


def _check_base_bytes(base: nn.Module, ours: float) -> None:
    """Check the base's bytes: those of its tensors, each once, and of a header."""
    for module in base.modules():
        if parametrize.is_parametrized(module):
            parts: Any = module.parametrizations
            for name in list(parts):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    tensors = {(t.data_ptr(), t.shape): t.numel() * t.element_size() for t in base.state_dict().values() if t.numel()}
    raw = sum(tensors.values())
    if not raw <= ours <= raw + 1000 + 200 * len(base.state_dict()):
        raise WrongNumber(f"base: its tensors have {raw} B, reported are {ours:.0f}")


def _check_bytes(artifact: Path, reported: Any) -> None:
    stored, ours = (artifact / "model.safetensors").stat().st_size, float(reported["meter/weight_bytes"])
    if stored != ours:
        raise WrongNumber(f"{artifact.name}: the file has {stored} B, reported are {ours:.0f}")


def _export(row: Row, place: Path, member: str, loaded: nn.Module, trusted: list[str]) -> None:
    """Export a front member and compare the file's outputs with those of the loaded model."""
    from sweeps.export import main

    path = place / f"{member}.{row.export}"
    argv = [str(place), "--point", member, "--to", str(row.export), "--out", str(path)]
    argv += [word for module in trusted for word in ("--trust", module)]
    argv += ["--precision", row.precision] if row.export == "onnx" else []
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = main(argv)
    said = " ".join(errors.getvalue().split())
    if row.no_export:
        if code != 2 or any(word not in said for word in row.no_export):
            raise ClearError(f"export must be refused ({', '.join(row.no_export)}): {code} {said}")
        return
    if code == 2:
        raise ClearError(f"export: {said}")
    if code == 1:
        raise WrongNumber(f"export of {member} differs: {printed.getvalue()}")
    if row.export == "onnx":
        _compare_onnx(row, path, loaded)


def _compare_onnx(row: Row, path: Path, loaded: nn.Module) -> None:
    from onnxruntime import InferenceSession

    inputs = row.inputs() if row.inputs is not None else row.data(**row.settings.get("data", {}))["test"][0]
    returned = called(loaded, inputs)
    right = tensor_of(returned if row.output is None else returned[row.output]).float().numpy()
    session = InferenceSession(str(path))
    declared = [(each.name, each.type) for each in session.get_inputs()]
    found: list[Tensor] = []
    named = isinstance(inputs, Mapping) and set(inputs) == {name for name, _ in declared}
    _flatten([inputs[name] for name, _ in declared] if named else inputs, found)
    # A file takes numbers of the type of the user's data.
    types = {"tensor(double)": torch.float64, "tensor(float)": torch.float32}
    found = [t.to(types.get(kind, t.dtype)) for t, (_, kind) in zip(found, declared, strict=True)]
    feed = {name: tensor.numpy() for tensor, (name, _) in zip(found, declared, strict=True)}
    outputs = np.asarray(session.run(None, feed)[0]).astype(np.float32)
    if outputs.shape != right.shape:
        raise WrongNumber(f"the ONNX file returns {outputs.shape}, the model {right.shape}")
    if (worst := float(np.abs(outputs - right).max())) > row.close * max(1.0, float(np.abs(right).max())):
        raise WrongNumber(f"outputs of the ONNX file differ from the model's by {worst:.3g}")


def _flatten(inputs: Any, found: list[Tensor]) -> None:
    if isinstance(inputs, Tensor):
        found.append(inputs)
    else:
        for part in inputs.values() if isinstance(inputs, Mapping) else inputs:
            _flatten(part, found)


torch.set_num_threads(1)
