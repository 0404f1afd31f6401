"""Pruning: weights that are zero (Algorithm 3) and channels that are gone (Algorithms 2 and 4).

A method is a score for each candidate (`criteria`) and a count to remove, pure functions both (`magnitude_keep`,
`channels_to_remove`); what removal means, a mask or a smaller layer, is the rule's.
"""

from kmr.instantiations.pruning.blocks import BlockPruning
from kmr.instantiations.pruning.channels import channels_to_remove
from kmr.instantiations.pruning.structured import StructuredPruning
from kmr.instantiations.pruning.unstructured import UnstructuredPruning, magnitude_keep

__all__ = ["BlockPruning", "StructuredPruning", "UnstructuredPruning", "channels_to_remove", "magnitude_keep"]
