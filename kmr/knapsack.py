"""Sharing out a budget: one option for each item, the least total loss at a total cost (multiple-choice knapsack).

Exact by dynamic programming over the pairs (cost, loss) that no other pair beats in both, for all budgets at once. A
Lagrangian bound says how far from the best a result could be where the list of pairs had to be thinned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kmr.core import KMRError, NotApplicable

MOST_PAIRS = 50_000


@dataclass(frozen=True)
class Allocation:
    """One option for each item.

    Args:
        choice: the option's place in each item's list.
        cost: the sum of the chosen costs.
        loss: the sum of the chosen losses.
        bound: no choice within the budget loses less than this.
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
    """Choose one option of each item so that the costs stay within a budget and the losses sum to the least.

    Args:
        costs: for each item the cost of each of its options.
        losses: the same shape, what each option loses.
        budget: the most the costs may sum to.
        most_pairs: pairs kept from item to item; past it, of neighbours in cost the one that loses less is kept.

    Raises:
        NotApplicable: even the cheapest options cost more.
    """
    if not costs or [len(row) for row in costs] != [len(row) for row in losses] or not all(costs):
        raise KMRError("an allocation needs items with as many costs as losses")
    cheapest = sum(min(options) for options in costs)
    if cheapest > budget:
        raise NotApplicable(f"the cheapest options cost {cheapest:g} together, more than the budget of {budget:g}")
    total_cost, total_loss = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    back: list[tuple[Tensor, Tensor]] = []
    # What the items still to come cost at least: a pair that leaves less cannot be completed.
    rest = cheapest
    for item_costs, item_losses in zip(costs, losses, strict=True):
        rest -= min(item_costs)
        cost = (total_cost[:, None] + torch.tensor(item_costs, dtype=torch.float64)[None]).reshape(-1)
        loss = (total_loss[:, None] + torch.tensor(item_losses, dtype=torch.float64)[None]).reshape(-1)
        # Sums in another order may differ in their last bits.
        keep = torch.nonzero(cost <= budget - rest + 1e-9 * max(1.0, abs(budget))).reshape(-1)
        keep = keep[torch.argsort(loss[keep], stable=True)]
        keep = keep[torch.argsort(cost[keep], stable=True)]
        lowest = torch.cummin(loss[keep], 0).values
        keep = keep[torch.cat([torch.ones(1, dtype=torch.bool), loss[keep][1:] < lowest[:-1]])]
        if len(keep) > most_pairs:
            # The cheapest stays, so that a completion within the budget always exists.
            keep = keep[torch.unique(torch.linspace(0, len(keep) - 1, most_pairs, dtype=torch.float64).long())]
        total_cost, total_loss = cost[keep], loss[keep]
        back.append((keep // len(item_costs), keep % len(item_costs)))
    # The list ascends in cost and descends in loss: its last pair loses least.
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
