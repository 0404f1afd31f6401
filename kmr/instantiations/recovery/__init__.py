"""Recovery without training as a move like any other: `Recovery` turns what `kmr.recovery` does into a knob."""

from kmr.instantiations.recovery.recovery import Recovery

__all__ = ["Recovery"]
