"""Recovery without training as a rule: `Recovery` makes a knob of the methods in `kmr.recovery`."""

from kmr.instantiations.recovery.recovery import Recovery

__all__ = ["Recovery"]
