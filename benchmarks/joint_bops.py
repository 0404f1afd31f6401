"""Learned channels and bits within a limit on bit operations, beside pipelines with one bit width for all layers.

ResNet-20 on CIFAR-10 (`KMR_DATA`), with only weights quantized. `learned` is `BudgetedTraining`, in one training. Its
baselines take as many steps with the same teacher, optimizer, learning rate and augmentation. They remove channels by
magnitude, ranked over the whole network, until they are within the same limit. `sequential` trains half of the steps,
quantizes to one bit width and trains on the grids. `ramped` lowers the bit width along `JointTraining`'s ramp. The bit
width of each baseline (and so its number of channels) is chosen by validation accuracy with the first seed. A seed sets
the order of samples and the augmentation. Gains are means over seeds with a 95 % interval (Student's t); a gain beyond
its interval is won or lost.

Bar: every model is within its limit, compared models are within 3 % of each other, and `learned` loses to neither
baseline at any limit. The steps of `--quick` are too few for `learned`: it is behind there, and the bar only requires
that its loss is within the interval of three seeds.

    KMR_DATA=/path/to/data python -m benchmarks.joint_bops            # two limits, three seeds, about a quarter hour
    KMR_DATA=/path/to/data python -m benchmarks.joint_bops --quick    # one limit, few steps
"""

import argparse
import copy
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student_t
from torch import nn

from benchmarks import resnet20
from kmr.core import RuleWarning
from kmr.data import Split
from kmr.finetune import FineTune
from kmr.instantiations.distillation import Response
from kmr.instantiations.joint import BudgetedTraining, JointTraining
from kmr.instantiations.pruning import StructuredPruning
from kmr.instantiations.quantization import WeightQuantization
from kmr.meters import Accuracy, BOPs
from sweeps.examples.cifar import crop_and_flip

TEMPERATURE, WEIGHT, RATE = 4.0, 0.7, 0.02
TRIES = 9
APART = 0.03


@dataclass(frozen=True)
class Setting:
    """Extent of the comparison.

    Args:
        limits: shares of the base's bit operations, each with the bit widths that the baselines choose from.
        seeds: the number of seeds.
        steps: the training steps of each model.
        batch: the samples in a step.
        images: the numbers of training, validation and test images.
    """

    limits: tuple[tuple[float, tuple[int, ...]], ...]
    seeds: int
    steps: int
    batch: int
    images: tuple[int, int, int]


FULL = Setting(((0.09375, (3, 4)), (0.0625, (2, 3))), 3, 80, 64, (20_000, 1_000, 4_000))
QUICK = Setting(((0.09375, (4,)),), 3, 20, 48, (2_000, 250, 500))


class Bench:
    """The base model, its data, and the methods to compress it."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.of = resnet20.setting(*setting.images)
        self.base = self.of.base
        self.train = Split(self.of.train.source, setting.batch)
        self.inputs = self.of.train.first_inputs(2)
        self.bops = BOPs(example_inputs=self.inputs)
        self.whole = self.bops(self.base).value
        self.test = Accuracy(data=self.of.test)
        self.starts: dict[tuple[float, int], nn.Module] = {}

    def share(self, model: nn.Module) -> float:
        """Return a model's bit operations as a share of the base's."""
        return self.bops(model).value / self.whole

    def recipe(self, steps: int) -> Callable[..., FineTune]:
        """Return the factory of all training recipes here."""
        optimizer = partial(torch.optim.SGD, lr=RATE, momentum=0.9, nesterov=True, weight_decay=1e-4)
        return partial(FineTune, steps=steps, optimizer=optimizer, augment=crop_and_flip)

    def train_model(self, model: nn.Module, steps: int, seed: int) -> nn.Module:
        """Train a model in place with the base as teacher."""
        answers = Response(temperature=TEMPERATURE, weight=WEIGHT)
        make = self.recipe(steps)
        return make(data=self.train, seed=seed, original=self.base, guides={"answers": answers})(model)

    def quantize(self, model: nn.Module, bits: int) -> nn.Module:
        """Quantize weights to one bit width, with learned step sizes."""
        return WeightQuantization(learned=True, clip="mse")(model, "quantize.bits", bits)

    def prune_to(self, share: float, bits: int) -> nn.Module:
        """Remove the fewest channels that bring the base within the limit at these bits."""
        rule = StructuredPruning(example_inputs=self.inputs, scope="global")
        low, high, best = 0.0, 0.9, self.base
        if self.share(self.quantize(self.base, bits)) <= share:
            return self.base
        for _ in range(TRIES):
            middle = (low + high) / 2
            tried = rule(self.base, "structured.ratio", middle)
            if self.share(self.quantize(tried, bits)) <= share:
                high, best = middle, tried
            else:
                low = middle
        return best

    def train_sequential(self, share: float, bits: int, seed: int) -> nn.Module:
        """Prune, train, quantize, train."""
        first = self.setting.steps // 2
        pruned = self.train_model(self.start(share, bits), first, seed)
        return self.train_model(self.quantize(pruned, bits), self.setting.steps - first, seed)

    def train_ramped(self, share: float, bits: int, seed: int) -> nn.Module:
        """Prune, and train while the bit width falls."""
        rule = JointTraining(
            data=self.train, original=self.base, sparsities=(0.0,), bits=(bits,), seed=seed, learned=True,
            temperature=TEMPERATURE, weight=WEIGHT, recipe=self.recipe(self.setting.steps),
        )  # fmt: skip
        return rule(self.start(share, bits), "joint.target", f"0/{bits}")

    def train_learned(self, share: float, seed: int) -> nn.Module:
        """Learn channels and bit widths in one training."""
        rule = BudgetedTraining(
            data=self.train, original=self.base, example_inputs=self.inputs, seed=seed, temperature=TEMPERATURE,
            weight=WEIGHT, recipe=self.recipe(self.setting.steps),
        )  # fmt: skip
        return rule(self.base, "geta.bops", share)

    def start(self, share: float, bits: int) -> nn.Module:
        """Return a copy of the pruned model, which is made once."""
        if (share, bits) not in self.starts:
            self.starts[share, bits] = self.prune_to(share, bits)
        return copy.deepcopy(self.starts[share, bits])


def compare(bench: Bench, share: float, widths: tuple[int, ...]) -> dict[str, Any]:
    """Return the row of a limit: bits, shares and test accuracies of each seed, by method."""
    row: dict[str, Any] = {"budget": share, "bits": {}, "share": {}, "accuracy": {}}
    validation = Accuracy(data=bench.of.validation)
    for name, make in {"sequential": bench.train_sequential, "ramped": bench.train_ramped}.items():
        first = {bits: make(share, bits, 0) for bits in widths}
        bits = max(widths, key=lambda b: validation(first[b]).value) if len(widths) > 1 else widths[0]
        models = [first[bits], *(make(share, bits, seed) for seed in range(1, bench.setting.seeds))]
        row["bits"][name] = bits
        row["share"][name], row["accuracy"][name] = read(bench, models)
        say(name, row)
    models = [bench.train_learned(share, seed) for seed in range(bench.setting.seeds)]
    row["bits"]["learned"] = "2 to 8"
    row["share"]["learned"], row["accuracy"]["learned"] = read(bench, models)
    say("learned", row)
    for name in ("sequential", "ramped"):
        row[f"over_{name}"] = gain(row["accuracy"]["learned"], row["accuracy"][name])
    return row


def read(bench: Bench, models: list[nn.Module]) -> tuple[list[float], list[float]]:
    """Return the shares of bit operations and the test accuracies."""
    return [bench.share(model) for model in models], [bench.test(model).value for model in models]


def say(name: str, row: dict[str, Any]) -> None:
    """Print the progress to standard error."""
    print(f"limit {row['budget']:.4g}: {name}, {row['bits'][name]} bits: {fmean(row['accuracy'][name]):.2%}",
          file=sys.stderr, flush=True)  # fmt: skip


def gain(ours: list[float], theirs: list[float]) -> list[float]:
    """Return the mean difference over seeds and half its 95 % interval, in points."""
    each = [100 * (one - other) for one, other in zip(ours, theirs, strict=True)]
    half = float(student_t.ppf(0.975, len(each) - 1)) * stdev(each) / len(each) ** 0.5
    return [round(fmean(each), 3), round(half, 3)]


def verdict(mean: float, half: float) -> str:
    """Judge whether a gain is beyond its interval."""
    return "learned wins" if mean > half else "learned loses" if mean < -half else "undecided"


def run(quick: bool) -> dict[str, Any]:
    """Compare, print the table and return the figures."""
    setting = QUICK if quick else FULL
    started = time.perf_counter()
    with warnings.catch_warnings():
        # Padded shortcuts fix the channels of the stages, in all methods alike.
        warnings.simplefilter("ignore", RuleWarning)
        bench = Bench(setting)
        rows = [compare(bench, share, widths) for share, widths in setting.limits]
        dense = bench.test(bench.base).value
    shown = Table(
        title=f"CIFAR-10, ResNet-20: {dense:.2%} dense; {setting.steps} steps of {setting.batch}, {setting.seeds} "
        f"seeds, {resnet20.THREADS} thread\ntest accuracy on {setting.images[2]:,} images, gains in points"
    )
    for column in ("share of BOPs", *rows[0]["accuracy"], "learned over sequential", "learned over ramped"):
        shown.add_column(column)
    for row in rows:
        shown.add_row(
            f"{row['budget']:.4g}",
            *(f"{fmean(each):.2%} ({row['bits'][name]} bits)" for name, each in row["accuracy"].items()),
            *(f"{mean:+.2f} ± {half:.2f}, {verdict(mean, half)}"
              for mean, half in (row["over_sequential"], row["over_ramped"])),
        )  # fmt: skip
    Console(width=150).print(shown)
    shares = [[share / row["budget"] for each in row["share"].values() for share in each] for row in rows]
    held = {
        "within the limit": all(max(each) <= 1 for each in shares),
        "equal bit operations": all(min(each) >= 1 - APART for each in shares),
        "never loses": all(
            verdict(*row[over]) != "learned loses" for row in rows for over in ("over_sequential", "over_ramped")
        ),
    }
    return {
        "benchmark": "joint_bops", "quick": quick, "threads": resnet20.THREADS, "seeds": setting.seeds,
        "steps": setting.steps, "batch": setting.batch, "images": setting.images, "dense": round(dense, 5),
        "rows": rows, "bars": held, "seconds": round(time.perf_counter() - started), "passed": all(held.values()),
    }  # fmt: skip


def main() -> int:
    """Print the table and the JSON line; return 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one limit, few steps")
    options = parser.parse_args()
    figures = run(options.quick)
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
