"""Sharing out a budget: one option for each item, the least total loss at a total cost (multiple-choice knapsack).

Exact by dynamic programming over the pairs (cost, loss) that no other pair beats in both, for all budgets at once. A
Lagrangian bound says how far from the best a result could be where the list of pairs had to be thinned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
    if not costs or len(costs) != len(losses) or any(len(c) != len(l) or not c for c, l in zip(costs, losses)):  # noqa: B905, E741
        raise KMRError("an allocation needs items with as many costs as losses")
    cheapest = sum(min(options) for options in costs)
    if cheapest > budget:
        raise NotApplicable(f"the cheapest options cost {cheapest:g} together, more than the budget of {budget:g}")
    total_cost, total_loss = np.zeros(1), np.zeros(1)
    back: list[tuple[np.ndarray, np.ndarray]] = []
    # What the items still to come cost at least: a pair that leaves less cannot be completed.
    rest = np.cumsum([min(options) for options in costs][::-1])[::-1]
    for place, (item_costs, item_losses) in enumerate(zip(costs, losses, strict=True)):
        left = budget - (rest[place + 1] if place + 1 < len(costs) else 0.0)
        cost = (total_cost[:, None] + np.asarray(item_costs, float)[None]).ravel()
        loss = (total_loss[:, None] + np.asarray(item_losses, float)[None]).ravel()
        source, option = np.divmod(np.arange(len(cost)), len(item_costs))
        # Sums in another order may differ in their last bits.
        keep = np.flatnonzero(cost <= left + 1e-9 * max(1.0, abs(budget)))
        keep = keep[np.lexsort((loss[keep], cost[keep]))]
        lowest = np.minimum.accumulate(loss[keep])
        better = np.concatenate([[True], loss[keep][1:] < lowest[:-1]])
        keep = keep[better]
        if len(keep) > most_pairs:
            # The cheapest stays, so that a completion within the budget always exists.
            keep = keep[np.unique(np.linspace(0, len(keep) - 1, most_pairs).astype(int))]
        total_cost, total_loss = cost[keep], loss[keep]
        back.append((source[keep], option[keep]))
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
    items = [(np.asarray(c, float), np.asarray(l, float)) for c, l in zip(costs, losses, strict=True)]  # noqa: E741

    def dual(price: float) -> tuple[float, float]:
        picks = [int(np.argmin(loss + price * cost)) for cost, loss in items]
        spent = sum(float(cost[pick]) for pick, (cost, _) in zip(picks, items, strict=True))
        lost = sum(float(loss[pick]) for pick, (_, loss) in zip(picks, items, strict=True))
        return lost + price * (spent - budget), spent

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
