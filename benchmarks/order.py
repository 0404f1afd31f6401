"""Prune then quantize beside quantize then prune, on ResNet-20 and CIFAR-10, at equal stored bytes.

Surveys recommend pruning first, because magnitudes of quantized weights say less about their importance. Both orders
use the same rules (global magnitude pruning; affine grids per channel with least-squares clipping) and, with training,
the same number of steps after each of the two moves. The first order has a given sparsity and bits. The other has the
same bits, and the sparsity at which its packed file is as large. Differences are between predictions on the same test
images, with standard errors.

The recommended order holds if it is better by more than two standard errors somewhere and nowhere worse by as much. Bar
for either verdict: all pairs are within half a percent in bytes, and the standard error of every difference is at most
0.8 points (2.3 with --quick, which has an eighth of the images).

    KMR_DATA=… python -m benchmarks.order            # 4,000 test images
    KMR_DATA=… python -m benchmarks.order --quick    # 500 test images, fewer pairs
"""

import argparse
import json
import sys

from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.mixed_precision import difference, stored_bytes
from benchmarks.resnet20 import THREADS, Setting, correct, report_time, setting
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.quantization import WeightQuantization

PRUNE, QUANTIZE = UnstructuredPruning(), WeightQuantization(clip="mse")


def prune(model: nn.Module, sparsity: float) -> nn.Module:
    return PRUNE(model, "prune.sparsity", sparsity)


def quantize(model: nn.Module, bits: int) -> nn.Module:
    return QUANTIZE(model, "quantize.bits", bits)


def as_large(model: nn.Module, size: int) -> nn.Module:
    """Prune a quantized model by bisection until its file is as close as possible to a size."""
    low, high = 0.0, 0.98
    best = prune(model, high)
    for _ in range(12):
        middle = (low + high) / 2
        candidate = prune(model, middle)
        if abs(stored_bytes(candidate) - size) < abs(stored_bytes(best) - size):
            best = candidate
        low, high = (middle, high) if stored_bytes(candidate) > size else (low, middle)
    return best


def both_orders(here: Setting, sparsity: float, bits: int, steps: int) -> tuple[nn.Module, nn.Module]:
    """Return the models of prune → quantize and of quantize → prune, with training steps after each move."""
    train = here.finetune(steps)
    first = train(quantize(train(prune(here.base, sparsity)), bits))
    second = train(as_large(train(quantize(here.base, bits)), stored_bytes(first)))
    return first, second


def main() -> int:
    """Print the table and the JSON line; return 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 test images, fewer pairs")
    options = parser.parse_args()
    if options.quick:
        cases, test, coarse = [(0.5, 4, 0), (0.6, 3, 0), (0.7, 4, 10)], 500, 2.3
    else:
        cases = [(0.3, 8, 0), (0.5, 8, 0), (0.3, 4, 0), (0.5, 4, 0), (0.3, 3, 0), (0.5, 3, 0)]
        cases += [(0.7, 4, 60), (0.8, 4, 60), (0.6, 3, 60), (0.7, 3, 60)]
        test, coarse = 4000, 0.8
    here = setting(20_000, 250, test)
    shown = Table(title=f"ResNet-20, CIFAR-10: {test} test images, {THREADS} thread")
    for column in ("sparsity", "bits", "steps", "bytes P→Q", "bytes Q→P", "P→Q %", "Q→P %", "P→Q − Q→P"):
        shown.add_column(column, justify="right")
    rows = []
    for sparsity, bits, steps in cases:
        with report_time(f"sparsity {sparsity}, {bits} bits, {steps} steps"):
            first, second = both_orders(here, sparsity, bits, steps)
            right = correct(first, here.test), correct(second, here.test)
        gap, error = difference(*right)
        sizes = stored_bytes(first), stored_bytes(second)
        rows.append(
            {
                "sparsity": sparsity, "bits": bits, "steps": steps, "bytes": sizes,
                "accuracy": [round(100 * float(r.mean()), 2) for r in right], "gap": round(gap, 3),
                "stderr": round(error, 3),
            }
        )  # fmt: skip
        shown.add_row(
            f"{sparsity}", f"{bits}", f"{steps}", f"{sizes[0]:,}", f"{sizes[1]:,}",
            *(f"{100 * float(r.mean()):.2f}" for r in right), f"{gap:+.2f} ± {error:.2f}",
        )  # fmt: skip
    Console(width=110).print(shown)
    gaps = [(float(row["gap"]), float(row["stderr"])) for row in rows]  # type: ignore[arg-type]
    better = sum(gap > 2 * error for gap, error in gaps)
    worse = sum(gap < -2 * error for gap, error in gaps)
    verdict = "pruning first is better here" if better and not worse else "the recommended order does not hold here"
    print(f"{verdict}: better in {better}, worse in {worse} of {len(rows)} pairs by more than two standard errors")
    equal = all(abs(row["bytes"][0] / row["bytes"][1] - 1) < 0.005 for row in rows)  # type: ignore[index]
    held = {"equal bytes": equal, "precise enough": all(error <= coarse for _, error in gaps)}
    figures = {
        "benchmark": "order", "quick": options.quick, "threads": THREADS, "test_images": test, "rows": rows,
        "better": better, "worse": worse, "verdict": verdict, "bars": held, "passed": all(held.values()),
    }  # fmt: skip
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
