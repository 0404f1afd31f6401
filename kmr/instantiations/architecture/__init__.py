"""Architecture (Algorithm 8): fewer blocks, for all samples (`DropBlocks`) or for the easy ones (`EarlyExit`).

Uniform width is `pruning.StructuredPruning`, rank is `lowrank`, and a student of any width and depth from a builder is
`distillation.Distillation`.
"""

from kmr.instantiations.architecture.blocks import Block, Skip, change, find_blocks, influence
from kmr.instantiations.architecture.depth import DropBlocks
from kmr.instantiations.architecture.early_exit import EarlyExit

__all__ = ["Block", "DropBlocks", "EarlyExit", "Skip", "change", "find_blocks", "influence"]
