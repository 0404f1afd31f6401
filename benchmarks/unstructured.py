"""One-shot unstructured pruning beside `torch.nn.utils.prune`, at 30 to 90 % sparsity without fine-tuning.

All criteria and scopes of the rule `prune` are compared on the same test images: L1 ranked globally, by layer, and by
LAMP and Erdős–Rényi-kernel layer sparsities; first-order Taylor and SNIP globally; Wanda by output; random with three
seeds. PyTorch's `global_unstructured` and `l1_unstructured` are the baselines of the first two, on the same layers. The
last rows are the L1 ones after BatchNorm recalibration, and global L1 after least-squares reconstruction, on 512
training images.

The published order is random ≤ layer-wise L1 ≤ global L1, and global L1 ≤ LAMP from 80 % on (Lee et al. 2021, after
fine-tuning). Each relation is tested by the paired difference over the images, after pruning and after recalibration.
It is broken if the difference is more than 2 standard errors below zero, and is then printed.

Bar: ours removes exactly the weights that PyTorch removes, and nothing is below random by more than 2 standard errors
where either of the two still classifies (at least a fifth of the images; networks that answer one class are ordered by
chance).

    python -m benchmarks.unstructured            # CIFAR-10, ResNet-20 and -56; KMR_DATA names the data folder
    python -m benchmarks.unstructured --quick    # digits, a small CNN trained on the spot
"""

import argparse
import copy
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils import prune

from kmr.core import RuleWarning, isolated_rng
from kmr.data import Split
from kmr.finetune import FineTune
from kmr.instantiations.pruning import SNIP, RandomSaliency, TaylorSaliency, UnstructuredPruning, Wanda
from kmr.meters import Accuracy
from kmr.meters.predictions import statistics_of
from kmr.recovery import recalibrate, reconstruct
from kmr.representation.weights import strip_all, weight_layers
from sweeps.examples import cifar, digits

SPARSITIES = (0.3, 0.5, 0.7, 0.8, 0.9)
HIGH = 0.8
CLASSIFIES = 0.2
"""The lowest accuracy on ten classes of a network that still classifies."""
ORDER = (
    ("layer L1", "random", 0.0), ("global L1", "layer L1", 0.0), ("LAMP", "global L1", HIGH),
    ("global L1 + bn", "layer L1 + bn", 0.0), ("LAMP + bn", "global L1 + bn", HIGH),
)  # fmt: skip
"""The published order: the first is at least as good as the second, from this sparsity on."""


def hits(model: nn.Module, test: Split) -> Tensor:
    """Return 1 for each correctly classified image and 0 for the others."""
    return statistics_of(model, [Accuracy(data=test)])["accuracy"].rows[:, 0]


def ours(model: nn.Module, sparsity: float, data: Split, **settings: Any) -> nn.Module:
    """Prune with the rule."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuleWarning)
        return UnstructuredPruning(data=data, **settings)(model, "prune.sparsity", sparsity)


def theirs(model: nn.Module, sparsity: float, together: bool) -> nn.Module:
    """Prune with PyTorch."""
    pruned = copy.deepcopy(model)
    weights = [(layer, "weight") for _, layer in weight_layers(pruned)]
    if together:
        prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=sparsity)
    else:
        for layer, name in weights:
            prune.l1_unstructured(layer, name, amount=sparsity)  # type: ignore[no-untyped-call]
    for layer, name in weights:
        prune.remove(layer, name)  # type: ignore[no-untyped-call]
    return pruned


def differing(one: nn.Module, other: nn.Module) -> int:
    """Count the weights that are zero in one model and not in the other."""
    plain = strip_all(copy.deepcopy(one))
    pairs = zip(weight_layers(plain), weight_layers(other), strict=True)
    return sum(int(((a.weight == 0) != (b.weight == 0)).sum()) for (_, a), (_, b) in pairs)


def columns(model: nn.Module, sparsity: float, data: Split) -> Iterator[tuple[str, nn.Module]]:
    """Yield each method of pruning and the model it leaves."""
    everywhere = ours(model, sparsity, data)
    yield "global L1", everywhere
    yield "torch global", theirs(model, sparsity, together=True)
    by_layer = ours(model, sparsity, data, scope="layer")
    yield "layer L1", by_layer
    yield "torch layer", theirs(model, sparsity, together=False)
    by_lamp = ours(model, sparsity, data, scope="lamp")
    yield "LAMP", by_lamp
    yield "ERK", ours(model, sparsity, data, scope="erk")
    yield "TaylorSaliency", ours(model, sparsity, data, criterion=TaylorSaliency())
    yield "SNIP", ours(model, sparsity, data, criterion=SNIP())
    yield "Wanda", ours(model, sparsity, data, criterion=Wanda(), scope="output")
    for seed in range(3):
        yield "random", ours(model, sparsity, data, criterion=RandomSaliency(), seed=seed)
    calibration = next(Split(data.source, 512).batches(shuffle_seed=0))[0]
    for name, pruned in (("global L1", everywhere), ("layer L1", by_layer), ("LAMP", by_lamp)):
        yield f"{name} + bn", recalibrate(copy.deepcopy(pruned), [calibration])
    fitted = copy.deepcopy(everywhere)
    reconstruct(fitted, model, [calibration], ridge=1e-2)
    yield "global L1 + fit", fitted


def judge(read: dict[float, dict[str, Tensor]]) -> tuple[list[str], list[str]]:
    """Return the broken relations of the published order, and the methods that are worse than random."""
    broken, below = [], []

    def gap(sparsity: float, better: str, worse: str) -> tuple[float, float]:
        difference = read[sparsity][better] - read[sparsity][worse]
        return 100 * float(difference.mean()), 100 * float(difference.std() / math.sqrt(len(difference)))

    for sparsity, found in read.items():
        for better, worse, start in ORDER:
            mean, error = gap(sparsity, better, worse)
            if sparsity >= start and mean < -2 * error:
                broken.append(f"{sparsity:.0%}: {better} − {worse} = {mean:.2f} ± {error:.2f} points")
        for name in found:
            mean, error = gap(sparsity, name, "random")
            classifies = max(float(found[name].mean()), float(found["random"].mean())) >= CLASSIFIES
            if classifies and mean < -2 * error:
                below.append(f"{sparsity:.0%}: {name} − random = {mean:.2f} ± {error:.2f} points")
    return broken, below


def bases(quick: bool, images: int, depths: list[int]) -> Iterator[tuple[str, nn.Module, Split, Split]]:
    """Yield name, trained model, training and test split."""
    if quick:
        data = digits.digits()
        train = Split(data["train"], 64)
        with isolated_rng(0):
            model = digits.small_cnn(16)
        yield "digits CNN", FineTune(data=train, epochs=10)(model).eval(), train, Split(data["test"], 400)
        return
    folder = Path(os.environ.get("KMR_DATA", "data"))
    data = cifar.cifar10(str(folder / "cifar10"), train=2048, validation=5000, test=images)
    from safetensors.torch import load_model

    for depth in depths:
        model = {20: cifar.resnet20, 56: cifar.resnet56}[depth]()
        load_model(model, str(folder / "models" / f"resnet{depth}-cifar10-jpeg.safetensors"))
        yield f"ResNet-{depth}", model.eval(), Split(data["train"], 128), Split(data["test"], 250)


def main() -> int:
    """Print a table for each model and the JSON line; return 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="digits, a small CNN")
    parser.add_argument("--images", type=int, default=2000, help="test images")
    parser.add_argument(
        "--depths", type=int, nargs="+", choices=(20, 56), default=[20, 56], help="depths of the ResNets"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"benchmark": "unstructured", "quick": options.quick, "threads": 1}
    failed = False
    for name, model, train, test in bases(options.quick, options.images, options.depths):
        dense = hits(model, test)
        read: dict[float, dict[str, Tensor]] = {}
        unlike = 0
        for sparsity in SPARSITIES:
            models: dict[str, nn.Module] = {}
            found: dict[str, list[Tensor]] = {}
            for column, pruned in columns(model, sparsity, train):
                models[column] = pruned
                found.setdefault(column, []).append(hits(pruned, test))
            read[sparsity] = {column: torch.stack(runs).mean(0) for column, runs in found.items()}
            unlike += sum(differing(models[f"{scope} L1"], models[f"torch {scope}"]) for scope in ("global", "layer"))
            print(f"{name} at {sparsity:.0%} done", file=sys.stderr, flush=True)
        table = Table(title=f"{name}: accuracy in % on {len(test)} test images, dense {100 * dense.mean():.2f}")
        table.add_column("")
        for sparsity in SPARSITIES:
            table.add_column(f"{sparsity:.0%}", justify="right")
        for column in read[SPARSITIES[0]]:
            table.add_row(column, *(f"{100 * float(read[s][column].mean()):.2f}" for s in SPARSITIES))
        Console(width=100).print(table)
        broken, below = judge(read)
        print("\n".join(["published order: " + ("holds" if not broken else "broken at"), *broken]))
        print("\n".join(["worse than random: " + ("none" if not below else ""), *below]))
        print(f"weights that only one of PyTorch and ours removes: {unlike}")
        failed = failed or bool(below or unlike)
        figures[name] = {
            "dense": round(100 * float(dense.mean()), 2),
            "accuracy": {
                column: [round(100 * float(read[s][column].mean()), 2) for s in SPARSITIES]
                for column in read[SPARSITIES[0]]
            },
            "broken": broken, "below_random": below, "unlike_torch": unlike,
        }  # fmt: skip
    print(json.dumps({**figures, "sparsities": SPARSITIES, "passed": not failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
