"""Distillation beside training on labels alone, with equal steps, data, order, start and optimizer.

The teacher is a trained ResNet-56. The student is a trained ResNet-20 without its least important blocks, which
recovers in a few steps on some training images of CIFAR-10. The baseline learns from labels alone. The variants differ
only in the guides of the fine-tuning: the teacher's answers (Hinton's loss, T = 4, weight 0.9), its features through
learned projections, or its attention maps. Settings were chosen on validation images; accuracy is measured on held-out
test images. Each seed draws its own training images and order, the same for every variant. A gain has a 95 % interval
(Student's t over seeds). The teacher's outputs are computed once per seed.

Bar: the student that learns from the teacher's answers is more accurate than without a teacher, mean over seeds.

    KMR_DATA=/path/to/data python -m benchmarks.distillation            # three seeds, about ten minutes of one core
    KMR_DATA=/path/to/data python -m benchmarks.distillation --quick    # one seed, two variants, 1,000 images
"""

import argparse
import copy
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student_t
from torch import nn

from kmr.core import measure
from kmr.data import Split
from kmr.finetune import FineTune, Guide
from kmr.instantiations.architecture import DropBlocks
from kmr.instantiations.distillation import AttentionTransfer, Hints, Response, pretrained
from kmr.meters import Accuracy, MACs, Parameters
from sweeps.examples.cifar import cifar10, resnet20, resnet56

BASELINE = "labels alone"
TAUGHT = "answers"


@dataclass(frozen=True)
class Setting:
    """Amount of training and testing."""

    images: int
    steps: int
    tested: int
    seeds: int
    variants: tuple[str, ...]


FULL = Setting(2_000, 120, 5_000, 3, (BASELINE, TAUGHT, "features", "attention"))
QUICK = Setting(1_000, 60, 1_000, 1, (BASELINE, TAUGHT))


def guides(teacher: nn.Module) -> dict[str, Mapping[str, Guide]]:
    """Return the guides of each variant."""
    answers = Response(teacher=teacher, temperature=4.0, weight=0.9)
    features = Hints(teacher=teacher, count=1)
    attention = AttentionTransfer(teacher=teacher)
    return {
        BASELINE: {},
        TAUGHT: {"answers": answers},
        "features": {"features": features},
        "attention": {"attention": attention},
    }


def shorten(model: nn.Module, data: Split) -> nn.Module:
    """Return the student: the model without 60 % of its removable blocks."""
    rule = DropBlocks(example_inputs=data.first_inputs(2), data=data)
    return rule(model, rule.knobs[0].name, 0.6)


def train(student: nn.Module, seed: int, setting: Setting, data: Split, given: Mapping[str, Guide]) -> nn.Module:
    """Return a student trained with these guides."""
    recipe = FineTune(
        data=data, steps=setting.steps, guides=given, seed=seed,
        optimizer=partial(torch.optim.SGD, lr=0.02, momentum=0.9, nesterov=True, weight_decay=5e-4),
    )  # fmt: skip
    return recipe(copy.deepcopy(student))


def gain(accuracies: list[float], base: list[float]) -> tuple[float, float | None]:
    """Return the mean gain over seeds and half its 95 % interval; None for one seed."""
    each = [one - other for one, other in zip(accuracies, base, strict=True)]
    if len(each) < 2:
        return each[0], None
    return fmean(each), float(student_t.ppf(0.975, len(each) - 1)) * stdev(each) / len(each) ** 0.5


def main() -> int:
    """Print the table and the JSON line; return 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, 1,000 images")
    options = parser.parse_args()
    if "KMR_DATA" not in os.environ:
        print("KMR_DATA is not set; name the folder with cifar10/ and models/", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    setting = QUICK if options.quick else FULL
    folder = Path(os.environ["KMR_DATA"]).expanduser()
    data = cifar10(str(folder / "cifar10"), train=setting.images * setting.seeds, test=setting.tested)
    inputs, targets = data["train"]
    parts = [Split(part, 64) for part in zip(*(torch.split(t, setting.images) for t in (inputs, targets)), strict=True)]
    test = Split(data["test"], 250)
    teacher = pretrained(resnet56(), str(folder / "models" / "resnet56-cifar10-jpeg.safetensors"))
    whole = pretrained(resnet20(), str(folder / "models" / "resnet20-cifar10-jpeg.safetensors"))
    start = shorten(whole, parts[0])
    accuracy = Accuracy(data=test)
    example = test.first_inputs()
    costs = {
        name: measure(model, [Parameters(), MACs(example_inputs=example)])
        for name, model in (("teacher", teacher), ("student", start))
    }
    best, untrained = accuracy(teacher).value, accuracy(start).value
    variants = guides(teacher)
    found: dict[str, list[float]] = {name: [] for name in setting.variants}
    for seed in range(setting.seeds):
        for name in setting.variants:
            started = time.perf_counter()
            student = train(start, seed, setting, parts[seed], variants[name])
            found[name].append(accuracy(student).value)
            print(f"seed {seed}, {name}: {found[name][-1]:.4f}, {time.perf_counter() - started:.0f} s",
                  file=sys.stderr, flush=True)  # fmt: skip
    size = {name: f"{r['parameters'].value / 1e3:.0f} k parameters, {r['macs'].value / 1e6:.1f} M MACs"
            for name, r in costs.items()}  # fmt: skip
    shown = Table(
        title=f"CIFAR-10, teacher ResNet-56 ({size['teacher']}): {best:.2%}; \n"
        f"student, blocks of ResNet-20 ({size['student']}): {untrained:.2%}\n"
        f"{setting.steps} steps of 64 on {setting.images} images; {setting.tested} test images; "
        f"{setting.seeds} seeds; 1 thread"
    )
    for column in ("student learns from", "accuracy", "each seed", "gain"):
        shown.add_column(column)
    gains: dict[str, Any] = {}
    for name, accuracies in found.items():
        shown_gain = ""
        if name != BASELINE:
            mean, half = gain(accuracies, found[BASELINE])
            gains[name] = [round(mean, 5), None if half is None else round(half, 5)]
            shown_gain = f"{mean:+.2%}" + ("" if half is None else f" ± {half:.2%}")
        shown.add_row(name, f"{fmean(accuracies):.2%}", ", ".join(f"{one:.2%}" for one in accuracies), shown_gain)
    Console(width=120).print(shown)
    passed = gains[TAUGHT][0] > 0
    figures = {
        "benchmark": "distillation", "teacher": round(best, 5), "start": round(untrained, 5),
        "steps": setting.steps, "images": setting.images,
        "tested": setting.tested, "seeds": setting.seeds,
        "accuracy": {name: [round(one, 5) for one in accuracies] for name, accuracies in found.items()},
        "gain": gains, "passed": passed,
    }  # fmt: skip
    print(json.dumps(figures))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
