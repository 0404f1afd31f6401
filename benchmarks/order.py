"""Prune then quantize beside quantize then prune, on ResNet-20 and CIFAR-10, at equal stored bytes.

Surveys recommend pruning first: magnitudes of rounded weights tell less about which weights matter. Here both orders
use the same rules (global magnitude pruning; affine grids per channel, ranges clipped by least squares) and, where
there is training, the same number of steps after each of the two moves. The first order is given a sparsity and bits;
the other gets the same bits and the sparsity at which its packed file is as large. Differences are between predictions
on the same test images, with their standard errors.

The verdict says whether the recommended order is better by more than two standard errors somewhere and nowhere worse by
as much. Bar: all pairs are within half a percent in bytes, and every difference is known to a standard error of 0.8
points (2.3 on the eighth of the images of --quick): whatever the verdict, it is measured.

    KMR_DATA=… python -m benchmarks.order            # 4,000 test images
    KMR_DATA=… python -m benchmarks.order --quick    # 500 test images, fewer pairs
"""

import argparse
import json
import sys

from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.mixed_precision import difference, stored
from benchmarks.resnet20 import THREADS, Setting, correct, setting, told
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.quantization import WeightQuantization

PRUNE, QUANTIZE = UnstructuredPruning(), WeightQuantization(clip="mse")


def pruned(model: nn.Module, sparsity: float) -> nn.Module:
    return PRUNE(model, "prune.sparsity", sparsity)


def quantized(model: nn.Module, bits: int) -> nn.Module:
    return QUANTIZE(model, "quantize.bits", bits)


def as_large(model: nn.Module, size: int) -> nn.Module:
    """Prune a quantized model to the sparsity at which its file comes nearest to a size, by bisection."""
    low, high = 0.0, 0.98
    best = pruned(model, high)
    for _ in range(12):
        middle = (low + high) / 2
        candidate = pruned(model, middle)
        if abs(stored(candidate) - size) < abs(stored(best) - size):
            best = candidate
        low, high = (middle, high) if stored(candidate) > size else (low, middle)
    return best


def both_orders(here: Setting, sparsity: float, bits: int, steps: int) -> tuple[nn.Module, nn.Module]:
    """Return the models of prune → quantize and of quantize → prune, trained for so many steps after each move."""
    train = here.finetune(steps)
    first = train(quantized(train(pruned(here.base, sparsity)), bits))
    second = train(as_large(train(quantized(here.base, bits)), stored(first)))
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
        with told(f"sparsity {sparsity}, {bits} bits, {steps} steps"):
            first, second = both_orders(here, sparsity, bits, steps)
            right = correct(first, here.test), correct(second, here.test)
        gap, error = difference(*right)
        sizes = stored(first), stored(second)
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
    held = {"equal bytes": equal, "known well enough": all(error <= coarse for _, error in gaps)}
    figures = {
        "benchmark": "order", "quick": options.quick, "threads": THREADS, "test_images": test, "rows": rows,
        "better": better, "worse": worse, "verdict": verdict, "bars": held, "passed": all(held.values()),
    }  # fmt: skip
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
