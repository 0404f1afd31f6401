"""Joint compression: several techniques in one training instead of in sequence.

`JointTraining` ramps the sparsity and bits of weights together while the model learns from its task and the original
model's outputs (JPQD, Intel 2022); `ramp` implements the ramp.

`BudgetedTraining` learns which channels stay and the bits of each layer, within a limit on bit operations (after GETA,
Qu et al. 2025). It combines quantizers with a learned width (`widths`), channels removed together (`units`), and the
projection of both on the limit (`projection`) in one model (`squeeze`).
"""

from kmr.instantiations.joint.budgeted import BudgetedTraining
from kmr.instantiations.joint.ramp import Ramp
from kmr.instantiations.joint.training import JointTraining

__all__ = ["BudgetedTraining", "JointTraining", "Ramp"]
