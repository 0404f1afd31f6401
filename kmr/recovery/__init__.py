"""Recovery without training: what a compressed model can win back from activations alone.

`recalibrate` measures BatchNorm statistics again; `reconstruct` fits the remaining weights of every layer to the
original's outputs by least squares, in the order of the forward pass, and measures the statistics on the way.
`removal_costs` tells beforehand which channels a reconstruction can do without.
`synthetic_inputs` makes inputs from a model's own BatchNorm statistics, where there is no data to calibrate on.
"""

from kmr.recovery.elimination import removal_costs
from kmr.recovery.reconstruction import Reconstruction, reconstruct
from kmr.recovery.statistics import recalibrate
from kmr.recovery.synthesis import synthetic_inputs

__all__ = ["Reconstruction", "recalibrate", "reconstruct", "removal_costs", "synthetic_inputs"]
