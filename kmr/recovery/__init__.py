"""Recovery without training: a compressed model regains quality from activations alone.

`recalibrate` re-estimates BatchNorm statistics. `reconstruct` fits the remaining weights of every layer to the
original's outputs by least squares, in the order of the forward pass, and re-estimates the statistics on the way.
`removal_costs` predicts which channels a reconstruction can compensate. `synthetic_inputs` makes inputs from a model's
own BatchNorm statistics, for calibration without data.
"""

from kmr.recovery.elimination import removal_costs
from kmr.recovery.reconstruction import ReconstructionResult, reconstruct
from kmr.recovery.statistics import recalibrate
from kmr.recovery.synthesis import synthetic_inputs

__all__ = ["ReconstructionResult", "recalibrate", "reconstruct", "removal_costs", "synthetic_inputs"]
