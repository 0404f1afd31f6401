"""Mixed precision of ResNet-20 on CIFAR-10, allocated by sensitivity, at the stored bytes of uniform bit widths.

The baselines are equal bits for all layers, and random bits for each layer within the same bytes. All three round to
nearest after least-squares clipping, without training. The sensitivity of a layer is the divergence of the predictions,
on training images, when only this layer is quantized. Bytes are those of the packed file. Differences are between
predictions on the same test images, with standard errors. Between two uniform widths the limit is half-way, and the
uniform model is the smaller one.

Bar: ours is nowhere more than two standard errors below uniform or below the mean of the random models, and above each
by more than two standard errors at some size of at most 5 bits.

    KMR_DATA=… python -m benchmarks.mixed_precision            # 4,000 test images
    KMR_DATA=… python -m benchmarks.mixed_precision --quick    # 500 test images, fewer sizes
"""

import argparse
import json
import math
import random
import sys

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.resnet20 import THREADS, correct, report_time, setting
from kmr.instantiations.quantization import Sensitivity, WeightQuantization, as_vector, measure_sensitivity, per_layer
from kmr.meters import WeightBytes

RULE = WeightQuantization(clip="mse")


def with_bits(base: nn.Module, bits: dict[str, int]) -> nn.Module:
    """Quantize each layer of the base to its bits."""
    rule = per_layer(RULE, tuple(bits))
    model = base
    for knob, value in as_vector(RULE, bits).items():
        model = rule(model, knob, value)
    return model


def stored_bytes(model: nn.Module) -> int:
    return int(WeightBytes()(model).value)


def allocate(base: nn.Module, table: Sensitivity, limit: int) -> tuple[nn.Module, dict[str, int]]:
    """Return the best allocation with a file within the limit."""
    allowed = float(limit)
    while True:
        bits, _ = table.for_bytes(allowed)
        model = with_bits(base, bits)
        excess = stored_bytes(model) - limit
        if excess <= 0:
            return model, bits
        allowed -= excess


def at_random(base: nn.Module, table: Sensitivity, limit: int, seed: int) -> nn.Module:
    """Return a model with random bits for each layer, raised in random order while the file stays within the limit."""
    draw = random.Random(seed)
    widths = sorted(table.widths)
    rows = zip(table.layers, table.bytes, strict=True)
    sizes = {path: dict(zip(table.widths, row, strict=True)) for path, row in rows}
    while True:
        bits = {path: draw.choice(widths) for path in table.layers}
        total = table.rest + sum(sizes[path][width] for path, width in bits.items())
        order = list(bits)
        draw.shuffle(order)
        for path in order * len(widths):
            if total <= limit:
                break
            lower = widths[max(0, widths.index(bits[path]) - 1)]
            total += sizes[path][lower] - sizes[path][bits[path]]
            bits[path] = lower
        for path in order * len(widths):
            higher = widths[min(len(widths) - 1, widths.index(bits[path]) + 1)]
            grown = total + sizes[path][higher] - sizes[path][bits[path]]
            if grown <= limit - 64:
                bits[path], total = higher, grown
        model = with_bits(base, bits)
        if stored_bytes(model) <= limit:
            return model


def difference(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Return the mean paired difference in points and its standard error."""
    gap = one - other
    return 100 * float(gap.mean()), 100 * float(gap.std()) / math.sqrt(len(gap))


def main() -> int:
    """Print the table and the JSON line; return 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 test images, fewer sizes")
    options = parser.parse_args()
    sizes = (2.5, 3.0, 4.0) if options.quick else (2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
    test, samples, draws = (500, 32, 1) if options.quick else (4000, 128, 3)
    here = setting(1_000, 250, test)
    widths = (8, 6, 5, 4, 3, 2) if options.quick else (8, 7, 6, 5, 4, 3, 2)
    with report_time("sensitivity"):
        table = measure_sensitivity(here.base, here.train, rule=RULE, widths=widths, samples=samples)
    uniform: dict[int, tuple[int, Tensor]] = {}
    for width in sorted({math.floor(size) for size in sizes} | {math.ceil(size) for size in sizes}):
        model = RULE(here.base, "quantize.bits", width)
        uniform[width] = stored_bytes(model), correct(model, here.test)
    base = 100 * float(here.base_right.mean())
    shown = Table(title=f"ResNet-20, CIFAR-10: no training, {test} test images, {THREADS} thread; base {base:.2f} %")
    for column in ("bytes of", "limit B", "allocated B", "%", "uniform %", "random %", "− uniform", "− random"):
        shown.add_column(column, justify="right")
    rows = []
    for size in sizes:
        low, high = uniform[math.floor(size)], uniform[math.ceil(size)]
        limit = (low[0] + high[0]) // 2
        with report_time(f"{size} bits"):
            model, bits = allocate(here.base, table, limit)
            right = correct(model, here.test)
            others = [correct(at_random(here.base, table, limit, seed), here.test) for seed in range(draws)]
        mean_other = torch.stack(others).mean(0)
        over_uniform, over_random = difference(right, low[1]), difference(right, mean_other)
        rows.append(
            {
                "size": size, "limit": limit, "bytes": stored_bytes(model), "accuracy": 100 * float(right.mean()),
                "uniform": 100 * float(low[1].mean()), "random": 100 * float(mean_other.mean()),
                "over_uniform": over_uniform, "over_random": over_random, "bits": list(bits.values()),
            }
        )  # fmt: skip
        shown.add_row(
            f"{size} bits", f"{limit:,}", f"{stored_bytes(model):,}", f"{100 * float(right.mean()):.2f}",
            f"{100 * float(low[1].mean()):.2f}", f"{100 * float(mean_other.mean()):.2f}",
            "{:+.2f} ± {:.2f}".format(*over_uniform), "{:+.2f} ± {:.2f}".format(*over_random),
        )  # fmt: skip
    Console(width=120).print(shown)
    held = {}
    for name in ("over_uniform", "over_random"):
        gaps = [(row["size"], *row[name]) for row in rows]  # type: ignore[misc]
        held[f"{name}: nowhere below"] = all(gap >= -2 * error for _, gap, error in gaps)
        held[f"{name}: clearly above"] = any(gap > 2 * error and size <= 5 for size, gap, error in gaps)
    figures = {
        "benchmark": "mixed_precision", "quick": options.quick, "threads": THREADS, "test_images": test,
        "rows": json.loads(json.dumps(rows), parse_float=lambda text: round(float(text), 3)),
        "bars": held, "passed": all(held.values()),
    }  # fmt: skip
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
