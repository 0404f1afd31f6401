"""What a sample costs on average, where it depends on the sample."""

import copy
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from kmr.core import Cost, Reading
from kmr.data import Inputs, Split
from kmr.exits import EarlyExits
from kmr.meters.macs import count_macs
from kmr.meters.prediction import Predictions


@dataclass(frozen=True, kw_only=True)
class ExpectedMACs(Cost):
    """Multiply-accumulates of a sample, the mean over a data split: those of the exit that each sample takes.

    What each exit costs is counted, which samples take it is read off a run. The standard error is that of the mean
    over samples. A model without exits takes the same for each, without an error.

    Args:
        data: the split, or a view of it.
        example_inputs: a batch as the model takes it; its first sample is used.
    """

    data: Split | Predictions = field(repr=False)
    example_inputs: Inputs = field(repr=False, compare=False)
    name: str = "expected_macs"
    unit: str = field(init=False, default="MAC")
    trained: ClassVar[bool] = True

    def read(self, seen: nn.Module) -> Reading:
        if not isinstance(seen, EarlyExits):
            return Reading(float(count_macs(seen, self.example_inputs)[0]))
        costs = []
        forced = copy.deepcopy(seen)
        for place in range(len(seen.heads) + 1):
            forced.forced = place
            costs.append(count_macs(forced, self.example_inputs)[0])
        each = torch.tensor(costs, dtype=torch.float64)[exits_taken(seen, Predictions.of(self.data).split)]
        error = float(each.std() / len(each) ** 0.5) if len(each) > 1 else None
        return Reading(float(each.mean()), error)


def exits_taken(model: EarlyExits, data: Split) -> torch.Tensor:
    """Return the number of the exit that each sample of a split takes."""
    device = next(model.parameters()).device
    taken = []
    with torch.no_grad():
        for inputs, _ in data.batches():
            match inputs:
                case dict():
                    taken.append(model.route(**{k: v.to(device) for k, v in inputs.items()})[1])
                case tuple() | list():
                    taken.append(model.route(*(v.to(device) for v in inputs))[1])
                case _:
                    taken.append(model.route(inputs.to(device))[1])
    return torch.cat(taken).cpu()
