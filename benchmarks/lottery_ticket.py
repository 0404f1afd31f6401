"""Lottery tickets on the digits: rewound weights beside new random weights under the same mask, five seeds.

A 64-300-100-10 network (the shape of LeNet-300-100) is trained for k steps. From there the rule `ticket` finds tickets
by iterative magnitude pruning at 80, 90 and 95 % sparsity. Each ticket is trained from its rewound weights and, as the
control of Frankle & Carbin (2019), from new random weights under the same mask, with the same recipe and order of
samples. A second control has a random mask of the same sparsity on the rewound weights. The table has test accuracies
and the paired difference ticket − control over seeds with a 95 % interval (Student's t).

Bar: at each sparsity the ticket is better than the control on average over the seeds.

    python -m benchmarks.lottery_ticket            # 80, 90 and 95 %, three rounds
    python -m benchmarks.lottery_ticket --quick    # 80 and 95 %, two rounds
"""

import argparse
import copy
import json
import statistics
import sys
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from scipy import stats
from torch import nn

from kmr.core import isolated_rng
from kmr.data import Split
from kmr.finetune import FineTune
from kmr.instantiations.pruning import LotteryTicket, RandomSaliency, UnstructuredPruning
from kmr.instantiations.pruning.lottery import draw_again
from kmr.meters import Accuracy
from kmr.representation.weights import weight_layers
from sweeps.examples.digits import digits

SEEDS = range(5)
STARTS = ("ticket", "new weights", "random mask")


class Glorot(nn.Linear):
    """A linear layer with the initial weights of Frankle & Carbin: Gaussian Glorot, zero bias."""

    def reset_parameters(self) -> None:
        """Draw the weights."""
        nn.init.xavier_normal_(self.weight)
        nn.init.zeros_(self.bias)


def network(seed: int) -> nn.Module:
    """Build the network of a seed."""
    with isolated_rng(seed):
        return nn.Sequential(nn.Flatten(), Glorot(64, 300), nn.ReLU(), Glorot(300, 100), nn.ReLU(), Glorot(100, 10))


def momentum(parameters: Any) -> torch.optim.Optimizer:
    """Make the optimizer of every training."""
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def one_seed(seed: int, sparsities: list[float], rounds: int, rewind: int, recipe: FineTune, test: Split) -> Any:
    """Return the test accuracy (%) of the dense network, and of each start by sparsity."""
    accuracy = Accuracy(data=test)
    recipe = replace(recipe, seed=seed)
    early = replace(recipe, steps=rewind, schedule="constant")(network(seed))

    def accuracy_after(model: nn.Module) -> float:
        return 100 * accuracy(recipe(model).eval()).value

    found = {}
    for sparsity in sparsities:
        ticket = LotteryTicket(finetune=recipe, rounds=rounds)(early, "ticket.sparsity", sparsity)
        # The same as the rule with `start="random"`, without finding the mask again.
        control = copy.deepcopy(ticket)
        with isolated_rng(1000 + seed):
            draw_again(dict(weight_layers(control)))
        by_chance = UnstructuredPruning(criterion=RandomSaliency(), seed=2000 + seed)(early, "prune.sparsity", sparsity)
        found[sparsity] = [accuracy_after(model) for model in (ticket, control, by_chance)]
    return accuracy_after(copy.deepcopy(early)), found


def interval(differences: list[float]) -> tuple[float, float]:
    """Return mean and half-width of the 95 % interval of paired differences."""
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return statistics.mean(differences), float(stats.t.ppf(0.975, len(differences) - 1)) * error


def main() -> int:
    """Print the table and the JSON line; return 1 below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="80 and 95 %, two rounds")
    parser.add_argument("--steps", type=int, default=300, help="training steps of a round and of a ticket")
    parser.add_argument("--rewind", type=int, default=20, help="k, the step to rewind to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sparsities, rounds = ([0.8, 0.95], 2) if options.quick else ([0.8, 0.9, 0.95], 3)
    dense: list[float] = []
    read: dict[float, list[list[float]]] = {sparsity: [] for sparsity in sparsities}
    for seed in SEEDS:
        data = digits(seed=seed, validation=97, test=600)
        recipe = FineTune(data=Split(data["train"], 60), steps=options.steps, optimizer=momentum)
        whole, found = one_seed(seed, sparsities, rounds, options.rewind, recipe, Split(data["test"], 600))
        dense.append(whole)
        for sparsity, values in found.items():
            read[sparsity].append(values)
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    table = Table(title=f"test accuracy in %, mean of {len(SEEDS)} seeds; dense {statistics.mean(dense):.2f}; 1 thread")
    for column in ("sparsity", *STARTS, "ticket − new weights", "95 % interval"):
        table.add_column(column, justify="right")
    figures: dict[str, Any] = {}
    passed = True
    for sparsity, rows in read.items():
        mean, half = interval([row[0] - row[1] for row in rows])
        passed = passed and mean > 0
        averages = [statistics.mean(column) for column in zip(*rows, strict=True)]
        table.add_row(
            f"{sparsity:.0%}", *(f"{value:.2f}" for value in averages), f"{mean:+.2f}",
            f"{mean - half:+.2f} to {mean + half:+.2f}",
        )  # fmt: skip
        figures[f"{sparsity:g}"] = {
            **{name: round(value, 3) for name, value in zip(STARTS, averages, strict=True)},
            "difference": round(mean, 3), "interval": [round(mean - half, 3), round(mean + half, 3)],
        }  # fmt: skip
    Console(width=100).print(table)
    settings = {"seeds": len(SEEDS), "rounds": rounds, "steps": options.steps, "rewind": options.rewind, "threads": 1}
    print(json.dumps({"benchmark": "lottery_ticket", "quick": options.quick, **settings, **figures, "passed": passed}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
