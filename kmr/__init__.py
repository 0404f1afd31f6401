"""KMR: knobs, meters and rules for model efficiency, and the budgeted search loop over them."""

from kmr import core
from kmr.artifact.folder import load, save
from kmr.core import *  # noqa: F403

__all__ = [*core.__all__, "load", "save"]
