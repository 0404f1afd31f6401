"""Joint compression: several techniques inside one training, instead of one after the other.

`JointTraining` ramps the sparsity and the bits of weights together while the model learns from its task and from the
original model's answers (JPQD, Intel 2022). What ramps is in `ramp`.
"""

from kmr.instantiations.joint.ramp import Ramp
from kmr.instantiations.joint.training import JointTraining

__all__ = ["JointTraining", "Ramp"]
