"""Architecture (Algorithm 8): fewer blocks, for all samples (`DropBlocks`) or for easy ones (`EarlyExit`).

For uniform width see `pruning.StructuredPruning`, for rank `lowrank`, for a student of any width and depth
`distillation.Distillation`.
"""

from kmr.instantiations.architecture.blocks import Block, Skip, change, find_blocks, influence
from kmr.instantiations.architecture.depth import DropBlocks
from kmr.instantiations.architecture.early_exit import EarlyExit

__all__ = ["Block", "DropBlocks", "EarlyExit", "Skip", "change", "find_blocks", "influence"]
