"""Contract of a policy: legal and deterministic moves, no refused move again, and an end."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from torch import nn

from kmr.core import Budget, Domain, Instantiation, Move, Outcome, Policy, budgeted_kmr, measure, measure_base
from kmr.testing.claim import Claim
from kmr.testing.snapshot import changes, snapshot

_MOST = 1000
"""Refusals in a row after which a policy counts as endless."""


def check_policy(
    policy: Callable[[Instantiation, Budget, Mapping[str, Domain] | None], Policy],
    instantiation: Instantiation,
    model: nn.Module,
    *,
    share: float = 0.6,
    max_iters: int = 8,
) -> None:
    """Check that a policy keeps its contract on an instantiation and a model.

    The policy proposes knobs of the instantiation in the search space, and values in their domains except the neutral
    one. It changes neither the model nor any random state. Two policies with the same arguments propose the same moves.
    A refused move is not proposed again for that model, and the proposals end. A run under a budget satisfies
    Proposition 1: costs fall with every accepted move, there are at most `max_iters` moves, and success means that the
    budget is met.

    Args:
        policy: makes a policy from an instantiation, a budget and a search space: the class itself, or a function.
        instantiation: has at least one cost, and the qualities that the policy needs.
        model: the model to propose moves for; it is not changed.
        share: the budget, as a share of the model's reading of the first cost.
        max_iters: the largest number of moves in the run.

    Raises:
        AssertionError: names the policy, the move and the violation.
    """
    name = getattr(policy, "__name__", type(policy).__name__)
    claim = Claim(f"policy {name}")
    claim.check(instantiation.costs, "it cannot be checked: the instantiation has no cost")
    cost = instantiation.costs[0].name
    budget = Budget(cost, share * measure(model, instantiation.costs)[cost].value, max_iters)
    _check_moves(name, policy, instantiation, model, budget, None)
    for knob in instantiation.knobs[1:]:
        narrow = {other.name: other.domain for other in instantiation.knobs if other != knob}
        _check_moves(name, policy, instantiation, model, budget, narrow)
    with claim.runs("a run under a budget"):
        runs = [
            budgeted_kmr(model, instantiation, policy(instantiation, budget, None), budget, on_no_progress="next")
            for _ in range(2)
        ]
    run, again = runs
    costs = [step.costs[cost].value for step in run.trace.accepted]
    claim.check(
        str(run.trace.sequence) == str(again.trace.sequence),
        f"two runs differ: {run.trace.sequence} and {again.trace.sequence}",
    )
    falls = all(after < before for before, after in pairwise(costs))
    claim.check(falls, f"{cost} does not fall with every move of {run.trace.sequence}: {costs}")
    claim.check(len(costs) <= max_iters + 1, f"{len(costs) - 1} moves are accepted, more than {max_iters}")
    met = costs[-1] <= budget.limit
    claim.check(
        met == (run.outcome is Outcome.SUCCESS), f"the run ends in {run.outcome.value} with {cost} {costs[-1]:g}"
    )


def _check_moves(
    name: str,
    policy: Any,
    instantiation: Instantiation,
    model: nn.Module,
    budget: Budget,
    space: Mapping[str, Domain] | None,
) -> None:
    """Refuse every move on one model, with two policies; check each move, and that the policies agree."""
    claim, refused = Claim(f"policy {name}"), list[Move]()
    domains = {knob.name: knob.domain for knob in instantiation.knobs} if space is None else space
    base, before = measure_base(model, instantiation), snapshot(model)
    with claim.runs("making it"):
        one, other = (policy(instantiation, budget, space) for _ in range(2))
    while True:
        with claim.runs("proposing a move"):
            move = one(model, base.costs, base.qualities)
            twin = other(model, base.costs, base.qualities)
        claim.check(move == twin, f"two policies with the same arguments propose {move} and {twin}")
        if move is None:
            break
        about = Claim(f"policy {name}, {move.knob}={move.value}")
        about.check(move.knob in domains, f"no such knob in the search space: {', '.join(domains)}")
        about.check(move.value in domains[move.knob], f"the domain is {domains[move.knob]}")
        about.check(move.value != domains[move.knob].neutral, "the neutral value changes nothing")
        about.check(move not in refused, "it was refused for this model, and is proposed again")
        about.check(len(refused) < _MOST, f"{_MOST} moves were refused, and the proposals do not end")
        refused.append(move)
        with claim.runs("a refusal"):
            one.refuse(move)
            other.refuse(move)
    claim.check_none(changes(before, snapshot(model)), "it changes the model or the process")
