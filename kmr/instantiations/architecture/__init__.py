"""Architecture (Algorithm 8): fewer blocks.

Uniform width is `pruning.StructuredPruning`, rank is `lowrank`, and a student of any width and depth from a builder is
`distillation.Distillation`.
"""

from kmr.instantiations.architecture.blocks import Block, change, drop, find_blocks, influence
from kmr.instantiations.architecture.depth import DropBlocks

__all__ = ["Block", "DropBlocks", "change", "drop", "find_blocks", "influence"]
