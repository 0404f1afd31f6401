"""Joint pruning, quantization and distillation beside sequential pipelines, at equal steps and equal stored bytes.

The joint loop ramps sparsity and bits together (`JointTraining`). Its baselines take the same number of steps with the
same teacher, optimizer and data, in two trainings. `sequential` prunes by magnitude in one step, trains, quantizes and
trains on the grid. `ramped` does the same, but its sparsity rises during the first training along the curve of the
joint loop, so that only the joint training distinguishes it from the joint loop. The data are handwritten digits, the
model is the small CNN of the examples; each seed draws its own split and trains its own dense network.

The learning rate and the share of steps (of the ramp, or before quantization) are chosen for each method and target by
mean validation accuracy over seeds, ties by cross-entropy. Then the sparsities of `ramped` and `joint` are adjusted
until their files are as large as those of `sequential`, and test accuracies are measured. Gains are means over seeds
with a 95 % interval (Student's t). A gain beyond its interval is won or lost; any other is undecided.

If `KMR_DATA` names the data, `benchmarks.joint_bops` follows, and its bar then counts too: channels and bits learned
together within a limit on bit operations.

Bar: files differ by at most 1 % in bytes, and the joint loop does not lose to `sequential` at any target.

    python -m benchmarks.joint            # three targets, five seeds, about ten minutes of one core
    python -m benchmarks.joint --quick    # one target, three seeds, fewer steps
    KMR_DATA=/path/to/data python -m benchmarks.joint    # and learned channels and bits, about a quarter hour more
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from statistics import fmean, stdev
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student_t
from torch import nn

from benchmarks import joint_bops
from kmr import isolated_rng
from kmr.data import Split
from kmr.finetune import FineTune
from kmr.instantiations.distillation import Response
from kmr.instantiations.joint import JointTraining
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.quantization import WeightQuantization
from kmr.meters import Accuracy, CrossEntropy, WeightBytes
from sweeps.examples.digits import digits, small_cnn

THREADS = 1
TEMPERATURE, WEIGHT = 4.0, 0.7
WITHIN = 0.005
TRIES = 5


@dataclass(frozen=True)
class Target:
    """Target sparsity and bits of a model."""

    sparsity: float
    bits: int

    def __str__(self) -> str:
        return f"{self.sparsity:.0%} zero, {self.bits} bits"


@dataclass(frozen=True)
class Choice:
    """Hyperparameters chosen on validation data: learning rate, and share of steps of the ramp or first part."""

    lr: float
    share: float


@dataclass(frozen=True)
class Setting:
    """Extent of the comparison."""

    targets: tuple[Target, ...]
    choices: tuple[Choice, ...]
    seeds: int
    steps: int


FULL = Setting(
    (Target(0.8, 4), Target(0.9, 3), Target(0.95, 2)),
    tuple(Choice(*pair) for pair in product((0.02, 0.05), (0.5, 0.75))), 5, 160,
)  # fmt: skip
QUICK = Setting((Target(0.9, 3),), (Choice(0.05, 0.5), Choice(0.05, 0.75)), 3, 96)


@dataclass(frozen=True)
class Case:
    """A seed with its data and its dense network."""

    seed: int
    train: Split
    validation: Split
    test: Split
    base: nn.Module

    @classmethod
    def of(cls, seed: int) -> "Case":
        """Draw a split and train the dense network on it."""
        data = digits(seed)
        train = Split(data["train"], 64)
        with isolated_rng(seed):
            model = small_cnn(16)
        recipe = FineTune(data=train, epochs=12, seed=seed, optimizer=sgd(0.05))
        return cls(seed, train, Split(data["validation"], 400), Split(data["test"], 400), recipe(model).eval())


def sgd(lr: float) -> Callable[[Any], torch.optim.Optimizer]:
    """Return the factory of all optimizers here."""
    return partial(torch.optim.SGD, lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-4)


def train(case: Case, choice: Choice, steps: int) -> FineTune:
    """Return a training recipe with the dense network as teacher."""
    answers = Response(temperature=TEMPERATURE, weight=WEIGHT)
    return FineTune(
        data=case.train, steps=steps, seed=case.seed, optimizer=sgd(choice.lr), original=case.base,
        guides={"answers": answers},
    )  # fmt: skip


def train_along_ramp(case: Case, target: Target, choice: Choice, steps: int, share: float) -> nn.Module:
    """Train the dense network towards a target along a ramp over that share of the steps."""
    rule = JointTraining(
        data=case.train, original=case.base, ramp=share, sparsities=(target.sparsity,), bits=(target.bits,),
        seed=case.seed, temperature=TEMPERATURE, weight=WEIGHT,
        recipe=partial(FineTune, steps=steps, optimizer=sgd(choice.lr)),
    )  # fmt: skip
    knob = rule.knobs[0]
    return rule(case.base, knob.name, knob.domain.values[0])  # type: ignore[union-attr]


def train_sequential(case: Case, target: Target, choice: Choice, steps: int) -> nn.Module:
    """Prune, train, quantize, train."""
    first = round(choice.share * steps)
    pruned = train(case, choice, first)(UnstructuredPruning()(case.base, "prune.sparsity", target.sparsity))
    return train(case, choice, steps - first)(WeightQuantization()(pruned, "quantize.bits", target.bits))


def train_ramped(case: Case, target: Target, choice: Choice, steps: int) -> nn.Module:
    """Prune along a ramp over the first part, quantize, train."""
    first = round(choice.share * steps)
    pruned = train_along_ramp(case, Target(target.sparsity, 32), choice, first, 1.0)
    return train(case, choice, steps - first)(WeightQuantization()(pruned, "quantize.bits", target.bits))


def train_joint(case: Case, target: Target, choice: Choice, steps: int) -> nn.Module:
    """Prune and quantize along one ramp."""
    return train_along_ramp(case, target, choice, steps, choice.share)


METHODS = {"sequential": train_sequential, "ramped": train_ramped, "joint": train_joint}


def stored_bytes(model: nn.Module) -> float:
    return WeightBytes()(model).value


def as_large(make: Callable[[Target], nn.Module], target: Target, size: float) -> nn.Module:
    """Train models at adjusted sparsities and return the one whose file is closest to a size."""
    model = best = make(target)
    # The bytes of a weight's code and its index, approximately.
    slope = -sum(p.numel() for p in model.parameters()) * (target.bits + 2) / 8
    sparsity, last = target.sparsity, stored_bytes(model)
    for _ in range(TRIES - 1):
        if abs(stored_bytes(best) / size - 1) <= WITHIN:
            break
        step = max(-0.02, min(0.02, (size - last) / slope))
        sparsity = min(0.995, sparsity + step)
        model = make(Target(round(sparsity, 6), target.bits))
        now = stored_bytes(model)
        if step and (now - last) / step < 0:
            slope = (now - last) / step
        last = now
        best = min(best, model, key=lambda one: abs(stored_bytes(one) - size))
    return best


def choose(method: str, target: Target, cases: list[Case], setting: Setting) -> Choice:
    """Return the choice with the best validation accuracy over seeds."""

    def score(choice: Choice) -> tuple[float, float]:
        models = [METHODS[method](case, target, choice, setting.steps) for case in cases]
        pairs = list(zip(models, cases, strict=True))
        accuracy = fmean(Accuracy(data=case.validation)(model).value for model, case in pairs)
        return accuracy, -fmean(CrossEntropy(data=case.validation)(model).value for model, case in pairs)

    return max(setting.choices, key=score) if len(setting.choices) > 1 else setting.choices[0]


def gain(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """Return the mean difference over seeds and half its 95 % interval, in points."""
    each = [100 * (one - other) for one, other in zip(ours, theirs, strict=True)]
    return fmean(each), float(student_t.ppf(0.975, len(each) - 1)) * stdev(each) / len(each) ** 0.5


def compare(target: Target, cases: list[Case], setting: Setting) -> dict[str, Any]:
    """Return the row of a target: choices, bytes and test accuracies of each seed, by method."""
    choices = {name: choose(name, target, cases, setting) for name in METHODS}
    row: dict[str, Any] = {"sparsity": target.sparsity, "bits": target.bits, "bytes": {}, "accuracy": {}}
    row["chosen"] = {name: [choice.lr, choice.share] for name, choice in choices.items()}
    for name, make in METHODS.items():
        models = []
        for index, case in enumerate(cases):
            made = partial(make, case, choice=choices[name], steps=setting.steps)
            if name == "sequential":
                models.append(made(target=target))
            else:
                size = row["bytes"]["sequential"][index]
                models.append(as_large(lambda asked, made=made: made(target=asked), target, size))  # type: ignore[misc]
        row["bytes"][name] = [stored_bytes(model) for model in models]
        right = [Accuracy(data=case.test)(model).value for model, case in zip(models, cases, strict=True)]
        row["accuracy"][name] = [round(one, 5) for one in right]
    for name in ("sequential", "ramped"):
        mean, half = gain(row["accuracy"]["joint"], row["accuracy"][name])
        row[f"over_{name}"] = [round(mean, 3), round(half, 3)]
    return row


def verdict(mean: float, half: float) -> str:
    return "joint wins" if mean > half else "joint loses" if mean < -half else "undecided"


def main() -> int:
    """Print the table and the JSON line; return 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one target, three seeds, fewer steps")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    setting = QUICK if options.quick else FULL
    started = time.perf_counter()
    cases = [Case.of(seed) for seed in range(setting.seeds)]
    dense = fmean(Accuracy(data=case.test)(case.base).value for case in cases)
    rows = []
    for target in setting.targets:
        row = compare(target, cases, setting)
        rows.append(row)
        gains = ", ".join(f"{row[f'over_{name}'][0]:+.2f} over {name}" for name in METHODS if name != "joint")
        print(f"{target}: joint {gains}; {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    shown = Table(
        title=f"Digits, small CNN of {stored_bytes(cases[0].base):,.0f} bytes: {dense:.2%} dense\n"
        f"{setting.steps} steps of 64 each; {setting.seeds} seeds; {THREADS} thread; test accuracy, gains in points"
    )
    for column in ("target", "bytes", *METHODS, "joint over sequential", "joint over ramped"):
        shown.add_column(column)
    for target, row in zip(setting.targets, rows, strict=True):
        shown.add_row(
            str(target), f"{fmean(row['bytes']['sequential']):,.0f}",
            *(f"{fmean(row['accuracy'][name]):.2%}" for name in METHODS),
            *(f"{mean:+.2f} ± {half:.2f}, {verdict(mean, half)}"
              for mean, half in (row["over_sequential"], row["over_ramped"])),
        )  # fmt: skip
    Console(width=140).print(shown)
    apart = max(
        abs(one / other - 1)
        for row in rows
        for name in ("ramped", "joint")
        for one, other in zip(row["bytes"][name], row["bytes"]["sequential"], strict=True)
    )
    held = {
        "equal bytes": apart <= 0.01,
        "never loses to sequential": all(verdict(*row["over_sequential"]) != "joint loses" for row in rows),
    }
    figures: dict[str, Any] = {
        "benchmark": "joint", "quick": options.quick, "threads": THREADS, "seeds": setting.seeds,
        "steps": setting.steps, "dense": round(dense, 5), "bytes_apart": round(apart, 5), "rows": rows, "bars": held,
        "seconds": round(time.perf_counter() - started), "passed": all(held.values()),
    }  # fmt: skip
    if "KMR_DATA" in os.environ:
        figures["under_bops"] = joint_bops.run(options.quick)
        figures["passed"] = figures["passed"] and figures["under_bops"]["passed"]
    else:
        print("joint_bops is not run: KMR_DATA is not set; name the data folder", file=sys.stderr)
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
