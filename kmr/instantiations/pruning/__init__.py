"""Pruning: masks over single weights (Algorithm 3) and removal of channels (Algorithms 2 and 4).

A method combines a score for each candidate (`criteria` for channels, `saliency` for single weights) with a number of
candidates to remove (`channels_to_remove`, `budgets`); both are independent of any model. The rule then removes them,
by a mask or a smaller layer.
"""

from kmr.instantiations.pruning.budgets import magnitude_keep
from kmr.instantiations.pruning.channels import channels_to_remove
from kmr.instantiations.pruning.gradual import Gradual
from kmr.instantiations.pruning.lottery import LotteryTicket
from kmr.instantiations.pruning.patterns import PatternPruning
from kmr.instantiations.pruning.saliency import SNIP, Magnitude, RandomSaliency, Saliency, TaylorSaliency, Wanda
from kmr.instantiations.pruning.schedules import sparsity_steps
from kmr.instantiations.pruning.structured import StructuredPruning
from kmr.instantiations.pruning.unstructured import UnstructuredPruning

__all__ = [
    "Gradual",
    "LotteryTicket",
    "Magnitude",
    "PatternPruning",
    "RandomSaliency",
    "SNIP",
    "Saliency",
    "StructuredPruning",
    "TaylorSaliency",
    "UnstructuredPruning",
    "Wanda",
    "channels_to_remove",
    "magnitude_keep",
    "sparsity_steps",
]
