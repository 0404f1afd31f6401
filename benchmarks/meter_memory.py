"""Memory of quality meters on data of a growing size, beside holding all outputs.

A meter of predictions keeps statistics per sample, so that its peak memory beside the model does not grow with samples
times classes. The benchmark reads every meter of a model of tokens at 1, 4 and 16 times the samples, and at 1, 4 and 16
times the vocabulary with accordingly smaller batches. Each reading runs in a process of its own, whose peak of resident
memory above its start is taken. The baseline holds all outputs of a split and reads the same cross-entropy from them in
plain torch, as a first script does.

Bar: at 16 times the samples, and at 16 times the vocabulary, no meter takes more than 1.5 times its memory at the
smallest size plus 24 MB. Numbers are peaks in MB, the median of three runs (one with --quick).

    python -m benchmarks.meter_memory            # about four minutes
    python -m benchmarks.meter_memory --quick    # two meters and the baseline
"""

import argparse
import gc
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.core import Meter, measure
from kmr.data import Split
from kmr.meters import (
    Accuracy,
    Agreement,
    BitsPerByte,
    CrossEntropy,
    ExpectedCalibrationError,
    KLDivergence,
    Perplexity,
)
from kmr.tasks import TokenClassification

LENGTH, SAMPLES, VOCABULARY, BATCH = 64, 32, 2048, 8
GROWTH, SLACK = 1.5, 24.0
"""The bar: the largest factor between the smallest and the largest size, and MB that are allowed beside it."""
SIZES = (1, 4, 16)


class Tokens(nn.Module):
    """An embedding and a linear head over a vocabulary."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(vocabulary, 4), nn.Linear(4, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embedding(tokens))
        return logits


Read = Callable[[nn.Module, Split], float]


def _meter(kind: type[Meter], compares: bool = False) -> Read:
    def read(model: nn.Module, split: Split) -> float:
        meter = kind(data=split, **({"original": model} if compares else {}))  # type: ignore[arg-type, call-arg]
        return measure(model, [meter])[meter.name].value

    return read


def _held(model: nn.Module, split: Split) -> float:
    """Read the cross-entropy from all outputs of the split, held at once."""
    with torch.no_grad():
        outputs = torch.cat([model(inputs) for inputs, _ in split.batches()])
        targets = torch.cat([targets for _, targets in split.batches()])
        return float(F.cross_entropy(outputs.flatten(0, 1), targets.flatten()))


METERS: dict[str, Read] = {
    "cross_entropy": _meter(CrossEntropy),
    "agreement": _meter(Agreement, compares=True),
    "accuracy": _meter(Accuracy),
    "perplexity": _meter(Perplexity),
    "bits_per_byte": _meter(BitsPerByte),
    "kl": _meter(KLDivergence, compares=True),
    "ece": _meter(ExpectedCalibrationError),
}
BASELINE = "all outputs held"


def _resident(field: str) -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))


def _child(name: str, samples: int, vocabulary: int, batch: int, answers: Connection) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokens = torch.randint(0, vocabulary, (samples, LENGTH))
    model = Tokens(vocabulary).eval()
    split = Split((tokens, tokens.roll(1, 1)), batch, task=TokenClassification())
    gc.collect()
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")
    before = _resident("VmRSS")
    value = (_held if name == BASELINE else METERS[name])(model, split)
    answers.send((_resident("VmHWM") - before, value))


def _peak(name: str, samples: int, vocabulary: int, batch: int, repeats: int) -> tuple[float, float]:
    """Return the median peak in MB, and the quality read."""
    found = []
    context = multiprocessing.get_context("fork")
    for _ in range(repeats):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(name, samples, vocabulary, batch, theirs))
        process.start()
        theirs.close()
        found.append(ours.recv())
        process.join()
    return statistics.median(peak for peak, _ in found), found[0][1]


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table and return 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two meters, one run each")
    quick = parser.parse_args(argv).quick
    torch.set_num_threads(1)  # before the fork, so that no thread pool is copied
    started = time.monotonic()
    names = [*(list(METERS)[:2] if quick else METERS), BASELINE]
    repeats = 1 if quick else 3
    table = Table("meter", *(f"{size}x samples" for size in SIZES), *(f"{size}x vocabulary" for size in SIZES[1:]))
    rows: dict[str, list[float]] = {}
    values: dict[str, list[float]] = {}
    for name in names:
        sizes = [(SAMPLES * size, VOCABULARY, BATCH) for size in SIZES]
        sizes += [(SAMPLES, VOCABULARY * size, max(1, BATCH // size)) for size in SIZES[1:]]
        read = [_peak(name, samples, vocabulary, batch, repeats) for samples, vocabulary, batch in sizes]
        rows[name], values[name] = [round(peak, 1) for peak, _ in read], [value for _, value in read]
        table.add_row(name, *(f"{peak:.1f} MB" for peak in rows[name]))
    Console().print(table)
    grown = {name: max(row) for name, row in rows.items() if max(row) > GROWTH * row[0] + SLACK and name != BASELINE}
    same = all(
        abs(one - other) <= 1e-5 * abs(other)
        for one, other in zip(values["cross_entropy"], values[BASELINE], strict=True)
    )
    passed = not grown and same
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    summary = {
        "benchmark": "meter_memory", "megabytes": rows, "baseline": BASELINE, "values_equal": same, "grown": grown,
        "wall_seconds": round(time.monotonic() - started, 1), "cpu_seconds": round(cpu, 1),
        "passed": passed,
    }  # fmt: skip
    print(json.dumps(summary))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
