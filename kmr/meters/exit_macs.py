"""What each sample costs in a model with early exits."""

import copy

import torch
from torch import Tensor

from kmr.data import Inputs, Split
from kmr.meters.macs import count_macs
from kmr.representation.early_exits import EarlyExits


def exit_macs(model: EarlyExits, example_inputs: Inputs, data: Split) -> Tensor:
    """Return the multiply-accumulates of each sample of a split, (n,): those up to the exit that it takes."""
    costs = []
    forced = copy.deepcopy(model)
    for place in range(len(model.heads) + 1):
        forced.forced = place
        costs.append(count_macs(forced, example_inputs)[0])
    return torch.tensor(costs, dtype=torch.float64)[exits_taken(model, data)]


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
