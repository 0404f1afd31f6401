"""Int8 models in ONNX Runtime beside float32 models in the same runtime: accuracy, bytes and time in one run.

ResNet-20 and ResNet-56 on CIFAR-10: static int8 (int8 weights per output channel, activation ranges from training
images) against float32. Both are ONNX files of the same model, timed in turns with eager PyTorch. Then two
transformers, a BERT-like one and a small GPT, briefly trained on text, in dynamic int8 and with int4 weights: bytes,
times and quality.

Bar for each ResNet: int8 is within 0.3 points of float32 on the test images, its file has at most 0.28 of the bytes,
and at batch 32 with one thread it is at least 2 times as fast. The bar on time holds only for processors with VNNI
instructions. The transformers have no bar.

    KMR_DATA=/path/to/data python -m benchmarks.int8_runtime
    KMR_DATA=/path/to/data python -m benchmarks.int8_runtime --quick    # ResNet-20, 1,000 test images, fewer turns
"""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.transformers_row import measure_transformers
from kmr.core import KMRError
from kmr.data import Split
from kmr.meters import Timing, time_sessions
from kmr.meters.runtime_check import Check, check
from kmr.meters.timing import instructions
from kmr.runtimes import Eager, OnnxRuntime, Session
from sweeps.examples import cifar

POINTS, SPEEDUP, SIZE = 0.3, 2.0, 0.28
BATCH = 32
VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")


@dataclass(frozen=True)
class Row:
    """Measurements of one ResNet: checks against the eager model, and timings by batch size."""

    model: str
    float32: Session
    int8: Session
    checks: dict[str, Check]
    timings: dict[int, dict[str, Timing]]

    @property
    def lost(self) -> float:
        """Points of accuracy that int8 loses against float32."""
        return 100 * (self.checks["float32"].artifact - self.checks["int8"].artifact)

    @property
    def speedup(self) -> float:
        """Speedup of int8 over float32 at the bar's batch size."""
        return self.timings[BATCH]["float32"].median / self.timings[BATCH]["int8"].median

    @property
    def size(self) -> float:
        """Size of the int8 file as a share of the float32 file."""
        return size(self.int8) / size(self.float32)


def size(session: Session) -> int:
    """Return the size of a session's file in bytes."""
    assert session.artifact is not None
    return len(session.artifact)


def measure_resnet(name: str, data: dict[str, Any], folder: Path, repeats: int) -> Row:
    """Make the three sessions of a ResNet, check two against the eager one on test images, and time all in turns."""
    from safetensors.torch import load_model

    model: nn.Module = getattr(cifar, name)()
    load_model(model, str(folder / "models" / f"{name}-cifar10-jpeg.safetensors"))
    calibration, test = Split(data["train"]), Split(data["test"], 250)
    example = calibration.first_inputs()
    eager = Eager().prepare(model.eval(), example)
    sessions: dict[str, Session] = {
        "float32": OnnxRuntime(precision="fp32").prepare(model, example),
        "int8": OnnxRuntime(precision="int8").prepare(model, example, calibration=calibration),
    }
    checks = {label: check(eager, session, test) for label, session in sessions.items()}
    timed: dict[str, Session] = {"eager": eager, **sessions}
    timings = {}
    for batch in (1, BATCH):
        taken = time_sessions(list(timed.values()), test.first_inputs(batch), repeats=repeats)
        timings[batch] = dict(zip(timed, taken, strict=True))
    return Row(name, sessions["float32"], sessions["int8"], checks, timings)


def show(console: Console, rows: list[Row]) -> None:
    """Print the table of the ResNets."""
    table = Table(title="ResNets on CIFAR-10, one thread", title_justify="left")
    for column in ("model", "runtime", "bytes", "test accuracy", "B=1 ms", f"B={BATCH} ms", "spread", "samples/s"):
        table.add_column(column, justify="left" if column in ("model", "runtime") else "right")
    for row in rows:
        for label in ("eager", "float32", "int8"):
            found = row.checks[label if label != "eager" else "int8"]
            accuracy, stderr = (
                (found.model, found.model_stderr) if label == "eager" else (found.artifact, found.artifact_stderr)
            )
            many = row.timings[BATCH][label]
            stored = "" if label == "eager" else f"{size(row.float32 if label == 'float32' else row.int8):,}"
            table.add_row(
                row.model, "PyTorch eager" if label == "eager" else f"ONNX Runtime {label}", stored,
                f"{100 * accuracy:.2f} ± {100 * stderr:.2f}", f"{row.timings[1][label].median:.2f}",
                f"{many.median:.1f}", f"{many.spread:.0%}", f"{1000 * BATCH / many.median:.0f}",
            )  # fmt: skip
    console.print(table)


def verdicts(row: Row, vnni: bool) -> dict[str, bool | None]:
    """Return which parts of the bar are met; None where one does not apply."""
    return {
        f"within {POINTS} points": row.lost <= POINTS,
        f"file at most {SIZE}": row.size <= SIZE,
        f"{SPEEDUP:g} times as fast": row.speedup >= SPEEDUP if vnni else None,
    }


def main() -> int:
    """Print the tables and the JSON line; return 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ResNet-20, 1,000 test images, fewer turns")
    parser.add_argument("--data", type=Path, default=os.environ.get("KMR_DATA"), help="folder of the data (KMR_DATA)")
    options = parser.parse_args()
    if options.data is None:
        parser.error("no data folder; set --data or KMR_DATA")
    try:
        OnnxRuntime().require()
    except KMRError as why:
        parser.error(str(why))
    folder = Path(options.data)
    torch.set_num_threads(1)
    console = Console(width=140)
    vnni = bool(instructions() & set(VNNI))
    data = cifar.cifar10(str(folder / "cifar10"), train=512, validation=5000, test=1000 if options.quick else 10_000)
    names = ["resnet20"] if options.quick else ["resnet20", "resnet56"]
    rows = [measure_resnet(name, data, folder, 30 if options.quick else 100) for name in names]
    first = rows[0].timings[BATCH]["int8"]
    console.print(f"{first.hardware}; load {first.load}; one thread; in turns; medians of {first.repeats}")
    if not vnni:
        console.print("no VNNI instructions: the bar on time does not apply")
    show(console, rows)
    found = {row.model: verdicts(row, vnni) for row in rows}
    for row in rows:
        console.print(f"{row.model}: int8 loses {row.lost:.2f} points, {row.size:.3f} of the bytes, "
                      f"{row.speedup:.2f} times as fast at batch {BATCH}")  # fmt: skip
    transformers = measure_transformers(console, folder, quick=options.quick)
    passed = all(met is not False for verdict in found.values() for met in verdict.values())
    figures = {
        "benchmark": "int8_runtime", "hardware": first.hardware, "vnni": vnni, "load": first.load, "threads": 1,
        "resnets": {
            row.model: {
                "lost_points": round(row.lost, 3), "size": round(row.size, 4), "speedup": round(row.speedup, 3),
                "agreement": round(row.checks["int8"].agreement, 4), "test_images": row.checks["int8"].samples,
                "bytes": {"float32": size(row.float32), "int8": size(row.int8)},
                "ms": {str(b): {k: round(t.median, 3) for k, t in by.items()} for b, by in row.timings.items()},
                "spread": {str(b): {k: round(t.spread, 3) for k, t in by.items()} for b, by in row.timings.items()},
                "met": found[row.model],
            }
            for row in rows
        },
        "transformers": transformers, "passed": passed,
    }  # fmt: skip
    print(json.dumps(figures))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
