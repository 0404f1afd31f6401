"""Multiple-choice knapsack: one option for each item, with the least total loss within a total cost.

Dynamic programming over the non-dominated (cost, loss) pairs solves it exactly. Where that list of pairs must be
thinned, a Lagrangian lower bound on the loss limits how far the result can be from the optimum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kmr.core import KMRError, NotApplicable

MOST_PAIRS = 50_000


@dataclass(frozen=True)
class Allocation:
    """A solution of the knapsack: one option for each item.

    Args:
        choice: the index of the chosen option in each item's list.
        cost: the sum of the chosen costs.
        loss: the sum of the chosen losses.
        bound: a lower bound on the loss of any choice within the budget.
    """

    choice: tuple[int, ...]
    cost: float
    loss: float
    bound: float


def allocate(
    costs: Sequence[Sequence[float]],
    losses: Sequence[Sequence[float]],
    budget: float,
    *,
    most_pairs: int = MOST_PAIRS,
) -> Allocation:
    """Choose one option of each item to minimise the total loss within a budget on the total cost.

    Args:
        costs: the cost of each option, a list for each item.
        losses: the loss of each option, of the same shape.
        budget: the upper limit on the total cost.
        most_pairs: (cost, loss) pairs carried from item to item; a longer list is thinned evenly, keeping both ends.

    Raises:
        KMRError: there are no items, an item has no options, or costs and losses differ in shape.
        NotApplicable: even the cheapest options exceed the budget.
    """
    if not costs or [len(row) for row in costs] != [len(row) for row in losses] or not all(costs):
        raise KMRError(
            f"cannot allocate {len(costs)} items: every item needs at least one option and as many costs as losses"
        )
    cheapest = sum(min(options) for options in costs)
    if cheapest > budget:
        raise NotApplicable(f"the cheapest options cost {cheapest:g} in total: more than the budget of {budget:g}")
    total_cost, total_loss = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    back: list[tuple[Tensor, Tensor]] = []
    # The least cost of the remaining items: a pair that leaves less cannot be completed within the budget.
    rest = cheapest
    for item_costs, item_losses in zip(costs, losses, strict=True):
        rest -= min(item_costs)
        cost = (total_cost[:, None] + torch.tensor(item_costs, dtype=torch.float64)[None]).reshape(-1)
        loss = (total_loss[:, None] + torch.tensor(item_losses, dtype=torch.float64)[None]).reshape(-1)
        # The tolerance allows for sums that round differently in another order.
        keep = torch.nonzero(cost <= budget - rest + 1e-9 * max(1.0, abs(budget))).reshape(-1)
        keep = keep[torch.argsort(loss[keep], stable=True)]
        keep = keep[torch.argsort(cost[keep], stable=True)]
        lowest = torch.cummin(loss[keep], 0).values
        keep = keep[torch.cat([torch.ones(1, dtype=torch.bool), loss[keep][1:] < lowest[:-1]])]
        if len(keep) > most_pairs:
            # The cheapest pair must stay: it alone guarantees a completion within the budget.
            keep = keep[torch.unique(torch.linspace(0, len(keep) - 1, most_pairs, dtype=torch.float64).long())]
        total_cost, total_loss = cost[keep], loss[keep]
        back.append((keep // len(item_costs), keep % len(item_costs)))
    # Costs ascend and losses descend: the last pair has the least loss.
    at = len(total_cost) - 1
    cost_found, loss_found = float(total_cost[at]), float(total_loss[at])
    choice = []
    for source, option in reversed(back):
        choice.append(int(option[at]))
        at = int(source[at])
    return Allocation(tuple(reversed(choice)), cost_found, loss_found, _bound(costs, losses, budget))


def _bound(costs: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], budget: float) -> float:
    """Return the largest Lagrangian bound max_λ Σᵢ min_o (loss + λ·cost) − λ·budget (Everett 1963)."""
    items = [
        (torch.tensor(c, dtype=torch.float64), torch.tensor(lost, dtype=torch.float64))
        for c, lost in zip(costs, losses, strict=True)
    ]

    def dual(price: float) -> tuple[float, float]:
        value, spent = -price * budget, 0.0
        for cost, loss in items:
            pick = int(torch.argmin(loss + price * cost))
            value += float(loss[pick] + price * cost[pick])
            spent += float(cost[pick])
        return value, spent

    best, spent = dual(0.0)
    if spent <= budget:
        return best
    low, high = 0.0, 1e-12
    while dual(high)[1] > budget and high < 1e30:
        low, high = high, high * 4
    for _ in range(100):
        middle = (low + high) / 2
        value, spent = dual(middle)
        best = max(best, value)
        low, high = (middle, high) if spent > budget else (low, middle)
    return best
