"""Policies over the knobs of an instantiation, each made for one run from (instantiation, budget, space, settings)."""

from kmr.policies.allocated import Allocated
from kmr.policies.dual import Dual
from kmr.policies.greedy import Greedy
from kmr.policies.order import legal_orders
from kmr.policies.random import RandomPolicy
from kmr.policies.scheduled import Scheduled

__all__ = ["Allocated", "Dual", "Greedy", "RandomPolicy", "Scheduled", "legal_orders"]
