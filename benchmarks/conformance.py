"""Structured pruning of many architectures beside Torch-Pruning, with the time of both.

Our rule and `BasePruner` each remove half of the channels, neurons and heads of every network; `BasePruner` is used as
in its examples, without the classifier layer. The status of ours is "works", "works narrowed" (some groups of layers
stay whole) or "infeasible", with the reason. Our model counts only if it runs, keeps its output shape, has fewer
parameters and loads from its file bit by bit. The baseline's model must run and keep its output shape.

Then both prune a ResNet-50 of 25.6 million parameters in turn, and the best of three times is compared.

Bars: ours never crashes, at least 20 of at least 25 networks work without narrowing, and pruning the large network
takes less than twice the baseline's time. One thread, about a minute; `--quick` times one cut only.

    python -m benchmarks.conformance [--quick]
"""

import argparse
import copy
import importlib.util
import json
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import kmr
from benchmarks.architectures import LANGUAGE, NAMES, Case, make
from benchmarks.architectures.convolutional import bottleneck_resnet
from kmr.artifact.folder import Builder
from kmr.core import Move, NotApplicable, RuleWarning, TransformationSequence
from kmr.instantiations.pruning import StructuredPruning
from kmr.instantiations.pruning.proof import outputs_of

WORKS, NARROWED, INFEASIBLE, CRASHED = "works", "works narrowed", "infeasible", "crashed"
RATIO = 0.5
_SECONDS = 30


@dataclass(frozen=True)
class Row:
    """Result for one network."""

    name: str
    status: str
    why: str
    parameters: int
    left: int
    baseline: str


def judge(name: str, case: Case, baseline: bool = True) -> Row:
    """Prune one network by our rule, and by the baseline."""
    before = _count(case.model)
    rule = StructuredPruning(example_inputs=case.inputs)
    status, why, left = WORKS, "", before
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            smaller = rule(case.model, rule.knobs[0].name, RATIO)
            left = _count(smaller)
            _check(case, smaller)
        except NotApplicable as reason:
            status, why = INFEASIBLE, str(reason)
        except Exception as error:
            status, why = CRASHED, f"{type(error).__name__}: {error}".splitlines()[0]
    notes = [str(w.message).removeprefix("structured: ") for w in caught if issubclass(w.category, RuleWarning)]
    if status == WORKS and notes:
        status, why = NARROWED, "; ".join(notes)
    return Row(name, status, why, before, left, _baseline(case) if baseline else "")


def _check(case: Case, smaller: nn.Module) -> None:
    with torch.no_grad():
        shapes = [tensor.shape for tensor in outputs_of(case.model, case.inputs)]
        outputs = outputs_of(smaller, case.inputs)
    if [tensor.shape for tensor in outputs] != shapes:
        raise AssertionError("the shape of the output changed")
    if _count(smaller) >= _count(case.model):
        raise AssertionError("no parameter was removed")
    with tempfile.TemporaryDirectory() as folder:
        moves = TransformationSequence((Move("structured.ratio", RATIO),))
        path = Path(folder) / "model"
        kmr.save(path, smaller, base=case.model, builder=Builder("torch.nn.Sequential"), sequence=moves)
        loaded = kmr.load(path, base=case.model)
        with torch.no_grad():
            if not all(map(torch.equal, outputs_of(loaded, case.inputs), outputs)):
                raise AssertionError("the loaded model has other outputs")


def _baseline(case: Case) -> str:
    import torch_pruning as tp

    model = copy.deepcopy(case.model)
    try:
        with torch.no_grad():
            shape = outputs_of(model, case.inputs)[0].shape
        kinds = nn.Linear | nn.modules.conv._ConvNd
        layers = [module for module in model.modules() if isinstance(module, kinds)]
        last = [m for m in layers if m.weight.shape[0] == shape[1 if len(shape) == 4 else -1]][-1:]
        with _time_limit(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tp.pruner.BasePruner(
                model, case.inputs, tp.importance.GroupMagnitudeImportance(), pruning_ratio=RATIO, ignored_layers=last,
                output_transform=_tensors,
            ).step()  # fmt: skip
            with torch.no_grad():
                output = outputs_of(model, case.inputs)[0]
    except TimeoutError:
        return f"not finished within {_SECONDS} s"
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:60]
    if output.shape != shape:
        return "the shape of the output changed"
    return "runs" if _count(model) < _count(case.model) else "does nothing"


def _tensors(output: Any) -> Any:
    return list(output.values()) if isinstance(output, dict) else output


class _time_limit:
    """Time limit of a block, in which it raises TimeoutError."""

    def __enter__(self) -> None:
        def ring(*_: Any) -> None:
            raise TimeoutError

        self._before = signal.signal(signal.SIGALRM, ring)
        signal.alarm(_SECONDS)

    def __exit__(self, *_: Any) -> None:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, self._before)


def cutting_times(repeats: int) -> tuple[float, float, int]:
    """Return the best seconds of ours and of the baseline for the same cut of a large network, and its parameters."""
    import torch_pruning as tp

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = bottleneck_resnet((3, 4, 6, 3), (64, 128, 256, 512), 1000).eval()
        inputs: Tensor = torch.randn(1, 3, 64, 64)
    rule = StructuredPruning(example_inputs=inputs)
    ours, theirs = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        smaller = rule(model, rule.knobs[0].name, RATIO)
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        pruned = copy.deepcopy(model)
        importance = tp.importance.GroupMagnitudeImportance()
        last = [pruned.get_submodule(str(len(list(pruned.children())) - 1))]
        tp.pruner.BasePruner(pruned, inputs, importance, pruning_ratio=RATIO, ignored_layers=last).step()
        theirs.append(time.perf_counter() - started)
        if _count(smaller) != _count(pruned):
            print(f"the pruned models differ: {_count(smaller):,} and {_count(pruned):,} parameters", file=sys.stderr)
    return min(ours), min(theirs), _count(model)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> int:
    """Print the table and the JSON line; return 1 below the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="time a single cut")
    options = parser.parse_args()
    torch.set_num_threads(1)
    there = importlib.util.find_spec("transformers") is not None
    names = [name for name in NAMES if there or name not in LANGUAGE]
    rows = [judge(name, make(name)) for name in names]
    table = Table(title=f"half of all channels, neurons and heads ({len(rows)} networks, one thread)")
    for column in ("network", "ours", "parameters", "why", "Torch-Pruning"):
        table.add_column(column)
    for row in rows:
        table.add_row(row.name, row.status, f"{row.parameters} → {row.left}", row.why[:160], row.baseline)
    Console(width=160).print(table)
    if not there:
        print(f"not run: {', '.join(LANGUAGE)}; install transformers")
    ours, theirs, parameters = cutting_times(1 if options.quick else 3)
    print(f"pruning {parameters:,} parameters: ours {ours:.2f} s, Torch-Pruning {theirs:.2f} s ({ours / theirs:.2f}x)")
    counts = {status: sum(row.status == status for row in rows) for status in (WORKS, NARROWED, INFEASIBLE, CRASHED)}
    passed = len(rows) >= 25 and counts[CRASHED] == 0 and counts[WORKS] >= 20 and ours < 2 * theirs
    figures = {
        "benchmark": "conformance", "networks": len(rows), **counts,
        "baseline_runs": sum(row.baseline == "runs" for row in rows), "threads": 1, "seconds_ours": round(ours, 3),
        "seconds_baseline": round(theirs, 3), "time_ratio": round(ours / theirs, 3), "passed": passed,
    }  # fmt: skip
    print(json.dumps(figures))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
