"""Channel pruning of CIFAR ResNets beside Torch-Pruning, at equal MACs and equal fine-tuning.

The baseline is Torch-Pruning as in its examples: `BasePruner`, L1 magnitude, global, without the layers that the padded
shortcuts fix. Ours is the structured rule with least-squares reconstruction, and with the criterion and scope of the
best validation accuracy; only the Taylor criterion uses labels. Both are fine-tuned for the same steps, on the same
images in the same order, once for each seed. The table has the accuracy on test images, which chose nothing, and that
of the dense network on the same images.

Bars: at every size the mean of ours over seeds is at least the baseline's, within one standard error of the difference;
before training every criterion beats a random choice; without training, at half the MACs, ResNet-20 loses at most 13.5
points and ResNet-56 at most 5.4.

One thread. The full run has 18 fine-tunings of 25 steps and 23 reconstructions; the JSON line has its seconds.

    KMR_DATA=/path/to/data python -m benchmarks.structured_vs_torch_pruning            # ResNet-56, three seeds
    KMR_DATA=/path/to/data python -m benchmarks.structured_vs_torch_pruning --quick    # ResNet-20, one size, one seed
"""

import argparse
import copy
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor, nn

from kmr.core import Rule
from kmr.data import Split
from kmr.finetune import FineTune
from kmr.instantiations.pruning import StructuredPruning
from kmr.instantiations.pruning.criteria import L1, L2, Random, Reconstruction, Taylor
from kmr.meters import MACs
from kmr.recovery import reconstruct
from sweeps.examples.cifar import cifar10, crop_and_flip, resnet20, resnet56

ANCHORS = {"resnet20": 13.5, "resnet56": 5.4}
"""The most points to lose at half the MACs without training."""

FIXED = ("conv1", "*.conv2")
"""The layers before a padded shortcut, whose width is in the network's code."""


@dataclass(frozen=True)
class Setting:
    """Extent of the benchmark."""

    network: str
    speedups: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int
    train: int
    validation: int
    test: int
    calibration: int
    anchors: tuple[str, ...]


FULL = Setting("resnet56", (1.5, 2.1, 2.6), (0, 1, 2), 25, 6000, 500, 2000, 1024, ("resnet20", "resnet56"))
QUICK = Setting("resnet20", (2.1,), (0,), 5, 1000, 250, 500, 256, ("resnet20",))


class Bench:
    """A dense network, its data, and the methods to prune it."""

    def __init__(self, network: str, setting: Setting, folder: Path, data: dict[str, tuple[Tensor, Tensor]]) -> None:
        self.setting, self.data = setting, data
        self.model = {"resnet20": resnet20, "resnet56": resnet56}[network]()
        self.model.load_state_dict(load_file(folder / "models" / f"{network}-cifar10-jpeg.safetensors"))
        self.model.eval()
        self.example = data["train"][0][:2]
        self.calibration = data["train"][0][: setting.calibration]
        self._macs = MACs(example_inputs=self.example[:1])
        self.dense_macs = self._macs(self.model).value

    def accuracy(self, model: nn.Module, split: str) -> float:
        """Return the percentage of correctly classified images."""
        images, labels = self.data[split]
        with torch.no_grad():
            right = sum(
                int((model.eval()(images[i : i + 250]).argmax(1) == labels[i : i + 250]).sum())
                for i in range(0, len(images), 250)
            )
        return 100 * right / len(images)

    def rules(self) -> dict[str, Rule]:
        """Return our rules by criterion and scope."""
        common: dict[str, Any] = {"example_inputs": self.example, "exclude": FIXED}
        labelled = Split(tuple(part[:128] for part in self.data["train"]), 64)
        images, labels = self.data["train"]
        unlabelled = Split((images[: self.setting.calibration], labels[: self.setting.calibration]), 256)
        errors = StructuredPruning(
            **common, criterion=Reconstruction(), scope="global", data=unlabelled, samples=self.setting.calibration
        )
        return {
            "reconstruction, global": errors,
            "L2, layer": StructuredPruning(**common, criterion=L2()),
            "L1, global": StructuredPruning(**common, criterion=L1(), scope="global"),
            "Taylor, global": StructuredPruning(**common, criterion=Taylor(), scope="global", data=labelled),
            "random, layer": StructuredPruning(**common, criterion=Random()),
        }

    def at_macs(self, make: Callable[[float], nn.Module], speedup: float) -> nn.Module:
        """Return the largest model within 1 / `speedup` of the MACs."""
        low, high, best = 0.0, 0.9, None
        ratio = min(0.85, 1 - 1 / speedup)
        for _ in range(6):
            model = make(ratio)
            share = self._macs(model).value / self.dense_macs
            if share <= 1 / speedup:
                high, best = ratio, model
                if share > 0.985 / speedup:
                    break
            else:
                low = ratio
            guess = ratio * (1 - 1 / speedup) / (1 - share) if share < 1 else (low + high) / 2
            ratio = guess + 0.003 if low < guess + 0.003 < high else (low + high) / 2
        return make(high) if best is None else best

    def ours(self, rule: Rule, speedup: float) -> nn.Module:
        """Prune and reconstruct, without training."""
        smaller = self.at_macs(lambda ratio: rule(self.model, rule.knobs[0].name, round(ratio, 4)), speedup)
        smaller = copy.deepcopy(smaller)
        reconstruct(smaller, self.model, [self.calibration], places=16 * len(self.calibration))
        return smaller.eval()

    def theirs(self, speedup: float) -> nn.Module:
        """Prune with Torch-Pruning."""
        import torch_pruning as tp

        def prune(ratio: float) -> nn.Module:
            model = copy.deepcopy(self.model)
            fixed = [model.conv1, model.linear, *(m for path, m in model.named_modules() if path.endswith(".conv2"))]
            importance = tp.importance.GroupMagnitudeImportance(p=1)
            tp.pruner.BasePruner(
                model, self.example[:1], importance, global_pruning=True, pruning_ratio=ratio, ignored_layers=fixed
            ).step()
            return model

        return self.at_macs(prune, speedup).eval()

    def accuracy_after_tuning(self, model: nn.Module, seed: int) -> float:
        """Return the test accuracy after fine-tuning a copy."""
        train = Split(self.data["train"], 128)
        tune = FineTune(data=train, steps=self.setting.steps, augment=crop_and_flip, seed=seed)
        return self.accuracy(tune(copy.deepcopy(model)), "test")

    def share(self, model: nn.Module) -> float:
        """Return a model's MACs as a share of the dense network's."""
        return self._macs(model).value / self.dense_macs


def compare(bench: Bench, say: Callable[[str], None]) -> tuple[list[dict[str, Any]], bool]:
    """Compare at every size; return a row for each, and whether the bars hold."""
    rows, passed = [], True
    for speedup in bench.setting.speedups:
        made = {}
        for name, rule in bench.rules().items():
            made[name] = bench.ours(rule, speedup)
            say(f"{speedup}x {name}: done")
        chosen_by = {name: bench.accuracy(model, "validation") for name, model in made.items()}
        test = {name: bench.accuracy(model, "test") for name, model in made.items()}
        chosen = max((name for name in made if not name.startswith("random")), key=lambda name: chosen_by[name])
        theirs = bench.theirs(speedup)
        ours_after, theirs_after = [], []
        for seed in bench.setting.seeds:
            ours_after.append(bench.accuracy_after_tuning(made[chosen], seed))
            theirs_after.append(bench.accuracy_after_tuning(theirs, seed))
            say(f"{speedup}x seed {seed}: ours {ours_after[-1]:.2f}, Torch-Pruning {theirs_after[-1]:.2f}")
        difference = [a - b for a, b in zip(ours_after, theirs_after, strict=True)]
        error = statistics.stdev(difference) / math.sqrt(len(difference)) if len(difference) > 1 else 0.0
        not_worse = statistics.mean(difference) + error >= 0
        beats_random = all(test[name] > test["random, layer"] for name in test if name != "random, layer")
        passed &= not_worse and beats_random
        rows.append({
            "speedup": speedup, "chosen": chosen, "macs_ours": bench.share(made[chosen]),
            "macs_theirs": bench.share(theirs), "untrained": test, "untrained_theirs": bench.accuracy(theirs, "test"),
            "ours": statistics.mean(ours_after), "theirs": statistics.mean(theirs_after),
            "difference": statistics.mean(difference), "standard_error": error, "beats_random": beats_random,
        })  # fmt: skip
    return rows, passed


def main() -> int:
    """Print the tables and the JSON line; return 1 below the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ResNet-20, one size, one seed, few images")
    parser.add_argument("--steps", type=int, help="fine-tuning steps of 128 images")
    options = parser.parse_args()
    if "KMR_DATA" not in os.environ:
        print("KMR_DATA is not set; name the folder with cifar10/ and models/", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    started = time.monotonic()
    setting = QUICK if options.quick else FULL
    if options.steps is not None:
        setting = Setting(**{**vars(setting), "steps": options.steps})
    folder = Path(os.environ["KMR_DATA"])
    data = cifar10(str(folder / "cifar10"), setting.train, setting.validation, setting.test)

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {text}", file=sys.stderr, flush=True)

    passed, anchors = True, {}
    for network in setting.anchors:
        bench = Bench(network, setting, folder, data)
        dense = bench.accuracy(bench.model, "test")
        rules = {name: rule for name, rule in bench.rules().items() if not name.startswith("random")}
        made = {name: bench.ours(rule, 2.0) for name, rule in rules.items()}
        chosen = max(made, key=lambda name: bench.accuracy(made[name], "validation"))
        lost = dense - bench.accuracy(made[chosen], "test")
        anchors[network] = {"dense": dense, "chosen": chosen, "lost": lost, "bar": ANCHORS[network]}
        passed &= lost <= ANCHORS[network]
        say(f"{network}: {lost:.2f} points lost at half the MACs without training")
    bench = Bench(setting.network, setting, folder, data)
    dense = bench.accuracy(bench.model, "test")
    rows, compared = compare(bench, say)
    passed &= compared
    show(setting, dense, rows, anchors)
    figures = {
        "benchmark": "structured_vs_torch_pruning", "network": setting.network, "threads": 1, "steps": setting.steps,
        "test_images": len(data["test"][0]), "dense": dense, "rows": rows, "anchors": anchors,
        "seconds": round(time.monotonic() - started), "cpu_seconds": round(time.process_time()), "passed": passed,
    }  # fmt: skip
    print(json.dumps(figures))
    return 0 if passed else 1


def show(setting: Setting, dense: float, rows: list[dict[str, Any]], anchors: dict[str, dict[str, Any]]) -> None:
    """Print the tables."""
    console = Console(width=150)
    table = Table(title=f"{setting.network}, dense {dense:.2f} %, {len(setting.seeds)} seed(s), {setting.steps} steps")
    for column in (
        "size",
        "chosen",
        "ours",
        "Torch-Pruning",
        "difference",
        "ours untrained",
        "Torch-Pruning untrained",
    ):
        table.add_column(column)
    for row in rows:
        table.add_row(
            f"{row['speedup']}x ({100 * row['macs_ours']:.1f} / {100 * row['macs_theirs']:.1f} % MACs)", row["chosen"],
            f"{row['ours']:.2f}", f"{row['theirs']:.2f}", f"{row['difference']:+.2f} ± {row['standard_error']:.2f}",
            f"{row['untrained'][row['chosen']]:.2f}", f"{row['untrained_theirs']:.2f}",
        )  # fmt: skip
    console.print(table)
    table = Table(title="ours before any training, by criterion and scope")
    for column in ("size", *(rows[0]["untrained"] if rows else ())):
        table.add_column(column)
    for row in rows:
        table.add_row(f"{row['speedup']}x", *(f"{value:.2f}" for value in row["untrained"].values()))
    console.print(table)
    table = Table(title="points lost at half the MACs, without training")
    for column in ("network", "dense", "chosen", "lost", "at most"):
        table.add_column(column)
    for network, row in anchors.items():
        table.add_row(network, f"{row['dense']:.2f}", row["chosen"], f"{row['lost']:.2f}", f"{row['bar']}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
