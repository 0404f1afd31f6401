"""Compression of LeNet-300-100 and LeNet-5 on MNIST: size on disk at the dense network's error or less.

Both use one pipeline of rules: prune by magnitude in a few steps, then quantize the weights to few bits, with
fine-tuning after each move (labels and a teacher's answers). The teacher of LeNet-5 is its own dense network; that of
LeNet-300-100 is a dense LeNet-5 of the same seed. The baseline is the dense network of the same run, trained with
labels alone like the published ones, and its file. A column shows the error of a dense LeNet-300-100 trained with that
teacher in as many epochs. For comparison, Deep Compression (Han et al. 2016) reaches 40× at 1.58 % error from 1.64 %
(LeNet-300-100) and 39× at 0.74 % from 0.80 % (LeNet-5), with Huffman coding, which these files do not use.

A ratio compares two files: the compressed and the dense `model.safetensors` that `kmr.save` writes, headers included.
The artifact's JSON has its own column. Each chosen artifact is loaded again and must make the same predictions. Of the
models at least 40× smaller, the one with the lowest validation error is chosen; only it and the dense networks are
measured on test images. Settings were chosen with other seeds, on validation images.

Bar: for both networks, the mean over seeds is at least 40× at a test error no higher than the dense network's.

    KMR_DATA=/path/to/data python -m benchmarks.lenet_mnist            # three seeds; about 20 minutes of one core
    KMR_DATA=/path/to/data python -m benchmarks.lenet_mnist --quick    # LeNet-300-100, one seed, 20,000 images
    KMR_DATA=/path/to/data python -m benchmarks.lenet_mnist --quick --networks LeNet-5
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import plotly.graph_objects as go
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import kmr
from benchmarks.mnist import lenet5, lenet_300_100, mnist
from kmr.artifact.folder import Builder, read
from kmr.core import Instantiation, Move, isolated_rng
from kmr.data import Data, Split, as_data
from kmr.finetune import FineTune
from kmr.instantiations.distillation import Response
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.quantization import WeightQuantization
from kmr.meters import Accuracy

TIMES = 40


@dataclass(frozen=True)
class Setting:
    """Settings of one network.

    Args:
        build: the factory of the network.
        dense: the epochs of dense training.
        ramp: the sparsities in order, each with the epochs of fine-tuning after it.
        rounded: the epochs after quantization.
        rounds_from: the lowest sparsity that is quantized; lower ones are intermediate.
        bits: the bit widths.
        rates: the learning rates after pruning and after quantization.
        teacher: the network whose dense form is the teacher; None for the network itself.
        taught: the temperature and weight of the teacher's answers.
    """

    build: Callable[[], nn.Module]
    dense: float
    ramp: tuple[tuple[float, float], ...]
    rounded: float
    rounds_from: float = 0.88
    bits: tuple[int, ...] = (4,)
    rates: tuple[float, float] = (2e-3, 3e-4)
    teacher: str | None = None
    taught: tuple[float, float] = (2.0, 0.5)


NETWORKS: Mapping[str, Setting] = {
    "LeNet-300-100": Setting(
        lenet_300_100, 8, ((0.6, 2), (0.8, 3), (0.88, 6), (0.915, 12)), 6, bits=(3,), rates=(3e-3, 1e-3),
        teacher="LeNet-5", taught=(4.0, 0.9),
    ),
    "LeNet-5": Setting(lenet5, 5, ((0.6, 0.5), (0.8, 0.5), (0.88, 1), (0.93, 2), (0.95, 1)), 0.5),
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A compressed model: its folder, the bytes of its files, and its validation error."""

    folder: Path
    sparsity: float
    bits: int
    weights: int
    files: int
    validation: float


def errors(model: nn.Module, split: Split) -> float:
    """Return the share of wrong predictions."""
    return 1 - Accuracy(data=split)(model).value


def tune(data: Data, epochs: float, rate: float, seed: int, **more: Any) -> FineTune:
    """Return the recipe that all trainings share."""
    return FineTune(data=data.train, epochs=epochs, seed=seed, warmup=20, **more,
                    optimizer=partial(torch.optim.Adam, lr=rate, fused=True))  # fmt: skip


def size(folder: Path) -> tuple[int, int]:
    """Return the bytes of an artifact's weights and of all its files."""
    return read(folder).weights_bytes, sum(file.stat().st_size for file in folder.iterdir())


def train(setting: Setting, data: Data, seed: int, **more: Any) -> nn.Module:
    """Return a dense network."""
    with isolated_rng(seed):
        dense = setting.build()
    return tune(data, setting.dense, 2e-3, seed, **more)(dense).eval()


def compress(setting: Setting, data: Data, dense: nn.Module, answers: Response, folder: Path, seed: int) -> list[Point]:
    """Return the compressed models of a dense one; each sparsity starts from the previous model."""
    technique = Instantiation(
        "deep compression", (UnstructuredPruning(), WeightQuantization(granularity="tensor")), (), ()
    )
    guides = {"answers": answers}
    pruned, points = dense, []
    for sparsity, epochs in setting.ramp:
        pruned = technique.rules[0](pruned, "prune.sparsity", sparsity)
        pruned = tune(data, epochs, setting.rates[0], seed, guides=guides, original=dense)(pruned)
        for bits in setting.bits if sparsity >= setting.rounds_from else ():
            rounded = technique.rules[1](pruned, "quantize.bits", bits)
            rounded = tune(data, setting.rounded, setting.rates[1], seed, guides=guides, original=dense)(rounded)
            moves = (Move("prune.sparsity", sparsity), Move("quantize.bits", bits))
            place = kmr.save(folder / f"{sparsity:g}-{bits}", rounded, base=dense, sequence=moves,
                             builder=Builder(f"benchmarks.mnist:{setting.build.__name__}"))  # fmt: skip
            points.append(Point(place, sparsity, bits, *size(place), errors(rounded, data.validation)))
            print(f"  {sparsity:g} zero, {bits} bits: {points[-1].weights} B, {points[-1].validation:.2%} validation",
                  file=sys.stderr, flush=True)  # fmt: skip
    return points


def run(setting: Setting, data: Data, folder: Path, seed: int) -> dict[str, Any]:
    """Train, compress and choose with one seed; return the figures."""
    dense = train(setting, data, seed)
    teacher = dense if setting.teacher is None else train(NETWORKS[setting.teacher], data, seed)
    answers = Response(teacher=teacher, temperature=setting.taught[0], weight=setting.taught[1])
    taught = dense if setting.teacher is None else train(setting, data, seed, guides={"answers": answers})
    place = kmr.save(folder / "dense", dense, base=dense, builder=Builder(f"benchmarks.mnist:{setting.build.__name__}"))
    whole, _ = size(place)
    print(f"  dense: {whole} B, {errors(dense, data.validation):.2%} validation", file=sys.stderr, flush=True)
    points = compress(setting, data, dense, answers, folder, seed)
    small = [point for point in points if whole >= TIMES * point.weights] or [min(points, key=lambda p: p.weights)]
    chosen = min(small, key=lambda point: (point.validation, point.weights))
    loaded = kmr.load(chosen.folder)
    if errors(loaded, data.validation) != chosen.validation:
        raise RuntimeError(f"the loaded model has another validation error than the saved one: {chosen.folder}")
    return {
        "dense_bytes": whole, "bytes": chosen.weights, "artifact_bytes": chosen.files,
        "sparsity": chosen.sparsity, "bits": chosen.bits, "times": whole / chosen.weights,
        "dense_error": errors(dense, data.test), "taught_error": errors(taught, data.test),
        "teacher_error": errors(teacher, data.test), "error": errors(loaded, data.test),
        "front": [[point.weights, point.validation] for point in points],
        "dense_validation": errors(dense, data.validation),
    }  # fmt: skip


def picture(found: Mapping[str, list[dict[str, Any]]], page: Path) -> None:
    """Draw every compressed model of every seed: bytes on disk against validation error."""
    figure = go.Figure()
    for name, seeds in found.items():
        points = [point for one in seeds for point in one["front"]]
        whole = [[one["dense_bytes"], one["dense_validation"]] for one in seeds]
        for label, shown, symbol in ((name, points, "circle"), (f"{name}, dense", whole, "x")):
            figure.add_scatter(x=[x for x, _ in shown], y=[100 * y for _, y in shown], name=label,
                               mode="markers", marker={"symbol": symbol, "size": 9})  # fmt: skip
    figure.update_xaxes(type="log", title="bytes on disk")
    figure.update_yaxes(title="validation error, %", rangemode="tozero")
    figure.update_layout(template="plotly_white", title="MNIST: pruned and quantized LeNets")
    page.parent.mkdir(parents=True, exist_ok=True)
    figure.write_html(page, include_plotlyjs=True)


def main() -> int:
    """Print the table and the JSON line; return 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, 20,000 images, LeNet-300-100 by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), help="default: all")
    parser.add_argument("--page", type=Path, default=Path("runs/lenet_mnist/front.html"))
    options = parser.parse_args()
    if "KMR_DATA" not in os.environ:
        print("KMR_DATA is not set; name the folder with mnist/", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    images = 20_000 if options.quick else 55_000
    data = as_data(mnist(str(Path(os.environ["KMR_DATA"]).expanduser() / "mnist"), train=images), 128)
    seeds = 1 if options.quick else options.seeds
    found: dict[str, list[dict[str, Any]]] = {}
    for name in options.networks or (["LeNet-300-100"] if options.quick else list(NETWORKS)):
        for seed in range(seeds):
            print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory() as folder:
                found.setdefault(name, []).append(run(NETWORKS[name], data, Path(folder), seed))
            print(f"  {found[name][-1]}", file=sys.stderr, flush=True)
    picture(found, options.page)
    shown = Table(title=f"MNIST, {images} training images, {seeds} seeds, 1 thread: mean ± standard deviation")
    columns = {
        "teacher_error": "teacher error", "taught_error": "dense error, with teacher", "dense_error": "dense error",
        "error": "error", "dense_bytes": "dense B", "bytes": "B", "artifact_bytes": "with JSON, B",
        "times": "times smaller",
    }  # fmt: skip
    for column in ("network", *columns.values()):
        shown.add_column(column)
    means: dict[str, dict[str, float]] = {}
    for name, each in found.items():
        means[name] = {key: fmean(one[key] for one in each) for key in columns}
        spread = {key: stdev(one[key] for one in each) if len(each) > 1 else 0.0 for key in columns}
        cells = [
            f"{means[name][key]:.2%} ± {spread[key]:.2%}" if "error" in key
            else f"{means[name][key]:.1f}×" if key == "times" else f"{means[name][key]:.0f}"
            for key in columns
        ]  # fmt: skip
        shown.add_row(name, *cells)
    Console(width=150).print(shown)
    print(options.page)
    passed = all(mean["times"] >= TIMES and mean["error"] <= mean["dense_error"] for mean in means.values())
    figures = {"benchmark": "lenet_mnist", "images": images, "seeds": seeds, "mean": means, "runs": found,
               "passed": passed}  # fmt: skip
    print(json.dumps(figures))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
