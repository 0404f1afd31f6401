"""Joint compression: several techniques inside one training, instead of one after the other.

`JointTraining` ramps the sparsity and the bits of weights together while the model learns from its task and from the
original model's answers (JPQD, Intel 2022). What ramps is in `ramp`.

`BudgetedTraining` learns which channels stay and how many bits each layer has, under a budget of bit operations (after
GETA, Qu et al. 2025): quantizers whose width is learned (`widths`), channels that go as one (`units`), their projection
on the budget (`projection`), and the three at work on a model (`squeeze`).
"""

from kmr.instantiations.joint.budgeted import BudgetedTraining
from kmr.instantiations.joint.ramp import Ramp
from kmr.instantiations.joint.training import JointTraining

__all__ = ["BudgetedTraining", "JointTraining", "Ramp"]
