"""Parameter-efficient fine-tuning (Algorithm 8): what is trained of a model is small.

As a recovery it is gone into the model in the end: what such an adapter computes and how it is put on a weight and
taken off is in `adapters`; `LowRankAdaptation` is a recipe that stands wherever `kmr.finetune.FineTune` does, after any
rule, and moves no cost. As a technique of its own it stays: `BottleneckAdapters` freezes a model and puts adapters with
a nonlinearity in it; it is judged by `TrainableParameters` and `OptimizerBytes`.
"""

from kmr.instantiations.peft.adapters import (
    Adapter,
    SerialAdapter,
    adapter_parameters,
    attach,
    detach,
    largest_rank,
)
from kmr.instantiations.peft.bottleneck import Adapted, BottleneckAdapter
from kmr.instantiations.peft.bottleneck_adapters import BottleneckAdapters
from kmr.instantiations.peft.recipe import LowRankAdaptation

__all__ = [
    "Adapted",
    "Adapter",
    "BottleneckAdapter",
    "BottleneckAdapters",
    "LowRankAdaptation",
    "SerialAdapter",
    "adapter_parameters",
    "attach",
    "detach",
    "largest_rank",
]
