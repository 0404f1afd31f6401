"""Activation-aware low-rank factors and Tucker decompositions beside plain SVD, without training.

ResNet-20 on CIFAR-10. Both SVD methods reduce every convolution and linear layer to the same ranks (whose factors have
a share `keep` of its weights), so their parameters and multiply-accumulates are equal. Activation-aware factors use
calibration images, drawn from the training images for each seed; plain factors use none. Nothing is chosen, so accuracy
is measured on held-out test images. The 95 % interval of a difference is paired on the images and includes the spread
over seeds.

Tucker decompositions of the convolutions, by orthogonal iteration or by their initial value, are instead reduced to at
most the baseline's multiply-accumulates at each `keep` (`AT_EQUAL_MACS`); bisection finds their own share. To add a
method, add a line to `METHODS`: a name and a function that makes the rule from calibration data.

Bar: activation-aware factors are at least as accurate as plain ones at every `keep`, mean over seeds.

    KMR_DATA=/path/to/data python -m benchmarks.low_rank            # 10,000 test images, three seeds
    KMR_DATA=/path/to/data python -m benchmarks.low_rank --quick    # 1,000 test images
"""

import argparse
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from kmr.core import Rule, RuleWarning, measure
from kmr.data import Split
from kmr.instantiations.lowrank import LowRank
from kmr.instantiations.teachers import pretrained
from kmr.instantiations.tensor import TensorDecomposition
from kmr.meters import Accuracy, Latency, MACs, Parameters, Predictions
from kmr.meters.predictions import statistics_of
from sweeps.examples.cifar import cifar10, resnet20

BASELINE = "plain SVD"
METHODS: Mapping[str, Callable[[Split, int], Rule]] = {
    BASELINE: lambda data, images: LowRank(),
    "activation-aware SVD": lambda data, images: LowRank(error="outputs", data=data, samples=images),
    "Tucker (HOOI)": lambda data, images: TensorDecomposition(),
    "Tucker (HOSVD)": lambda data, images: TensorDecomposition(iterations=0),
}
"""Functions of calibration data and a number of images that make a rule; its first knob is the share to keep."""

SEEDED = frozenset({"activation-aware SVD"})
"""The methods that use calibration images."""

AT_EQUAL_MACS = frozenset({"Tucker (HOOI)", "Tucker (HOSVD)"})
"""The methods that are compared at the baseline's multiply-accumulates, not at its share of weights."""


@dataclass(frozen=True)
class Cut:
    """Readings of a factored model: correct test images and costs."""

    right: Tensor
    macs: float
    parameters: float
    latency: float

    @property
    def accuracy(self) -> float:
        """The share of correct test images."""
        return float(self.right.double().mean())


def evaluate(model: nn.Module, test: Predictions) -> Cut:
    """Measure a model."""
    model.eval()
    right = statistics_of(model, [Accuracy(data=test)])["accuracy"].rows[:, 0] == 1
    example = test.split.first_inputs()
    meters = [MACs(example_inputs=example), Parameters(), Latency(example_inputs=example)]
    read = {name: reading.value for name, reading in measure(model, meters).items()}
    return Cut(right, read["macs"], read["parameters"], read["latency_ms"])


def turn(rule: Rule, model: nn.Module, value: float) -> nn.Module:
    """Turn a rule's first knob, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuleWarning)
        return rule(model, rule.knobs[0].name, value)


def share_within(rule: Rule, model: nn.Module, macs: float, example: Any) -> float:
    """Return the largest share, to 1/512, at which a rule leaves at most these multiply-accumulates."""
    low, high = 0.05, 1.0
    while high - low > 1 / 512:
        middle = (low + high) / 2
        found = MACs(example_inputs=example)(turn(rule, model, middle)).value
        low, high = (middle, high) if found <= macs else (low, middle)
    return low


def difference(ours: list[Cut], base: Cut) -> tuple[float, float]:
    """Return the mean difference of accuracy and half its 95 % interval."""
    each = [(cut.right.double() - base.right.double()) for cut in ours]
    mean = fmean(float(one.mean()) for one in each)
    over_images = float(torch.stack(each).mean(0).std()) / math.sqrt(len(base.right))
    over_seeds = stdev([float(one.mean()) for one in each]) / math.sqrt(len(each)) if len(each) > 1 else 0.0
    return mean, 1.96 * math.hypot(over_images, over_seeds)


def run(folder: Path, keeps: list[float], seeds: int, images: int, tested: int) -> tuple[Cut, dict[str, Any]]:
    """Return the dense model's readings, and those of each seed by method and share."""
    data = cifar10(str(folder / "cifar10"), train=45_000 if images > 2_000 else 5_000, test=tested)
    test = Predictions.of(Split(data["test"], 250))
    train = Split(data["train"], 128)
    dense = pretrained(resnet20(), str(folder / "models" / "resnet20-cifar10-jpeg.safetensors"))
    whole = evaluate(dense, test)
    print(f"dense: {whole.accuracy:.4f} on {tested} test images", file=sys.stderr, flush=True)
    cuts: dict[str, dict[float, list[Cut]]] = {}
    for name, make in METHODS.items():
        for keep in keeps:
            for seed in range(seeds if name in SEEDED else 1):
                _, calibration = train.divide(images / len(train), seed)
                rule, share = make(calibration, images), keep
                if name in AT_EQUAL_MACS:
                    share = share_within(rule, dense, cuts[BASELINE][keep][0].macs, test.split.first_inputs())
                cut = evaluate(turn(rule, dense, share), test)
                cuts.setdefault(name, {}).setdefault(keep, []).append(cut)
                print(f"{name}, keep {keep}, seed {seed}: {cut.accuracy:.4f}", file=sys.stderr, flush=True)
    return whole, cuts


def main() -> int:
    """Print the table and the JSON line; return 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 test images, two shares")
    parser.add_argument("--seeds", type=int, default=3, help="draws of calibration images")
    parser.add_argument("--images", type=int, default=512, help="calibration images")
    options = parser.parse_args()
    if "KMR_DATA" not in os.environ:
        print("KMR_DATA is not set; name the folder with cifar10/ and models/", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    keeps = [0.7, 0.5] if options.quick else [0.8, 0.6, 0.5, 0.4]
    tested = 1_000 if options.quick else 10_000
    dense, cuts = run(Path(os.environ["KMR_DATA"]).expanduser(), keeps, options.seeds, options.images, tested)
    shown = Table(
        title=f"ResNet-20, CIFAR-10, no training; dense {dense.accuracy:.2%}, {dense.macs / 1e6:.1f} M MACs\n"
        f"{tested} test images, {options.seeds} calibration seeds of {options.images} images, 1 thread"
    )
    for column in ("method", "keep", "parameters", "M MACs", "ms", "accuracy", "against plain"):
        shown.add_column(column)
    gains: dict[str, dict[str, list[float]]] = {name: {} for name in METHODS if name != BASELINE}
    for keep in keeps:
        for name, found in cuts.items():
            many = found[keep]
            gain = ""
            if name != BASELINE:
                mean, half = difference(many, cuts[BASELINE][keep][0])
                gains[name][str(keep)] = [round(mean, 5), round(half, 5)]
                gain = f"{mean:+.2%} ± {half:.2%}"
            shown.add_row(
                name, f"{keep:g}", f"{many[0].parameters:.0f}", f"{many[0].macs / 1e6:.1f}",
                f"{fmean(cut.latency for cut in many):.2f}", f"{fmean(cut.accuracy for cut in many):.2%}", gain,
            )  # fmt: skip
    Console(width=120).print(shown)
    passed = all(gain[0] >= 0 for gain in gains["activation-aware SVD"].values())
    figures = {
        "benchmark": "low_rank", "dense": round(dense.accuracy, 5), "seeds": options.seeds, "images": options.images,
        "tested": tested,
        "accuracy": {
            name: {str(keep): round(fmean(cut.accuracy for cut in many), 5) for keep, many in found.items()}
            for name, found in cuts.items()
        },
        "gain": gains, "passed": passed,
    }  # fmt: skip
    print(json.dumps(figures))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
