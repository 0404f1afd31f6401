"""Policies over the knobs of an instantiation, each made for one run from (instantiation, budget, space, settings)."""

from kmr.policies.greedy import Greedy
from kmr.policies.random import Random
from kmr.policies.scheduled import Scheduled

__all__ = ["Greedy", "Random", "Scheduled"]
