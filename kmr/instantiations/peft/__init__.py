"""Parameter-efficient fine-tuning (Algorithm 8): training of few parameters.

As a recovery, adapters are merged into the model: `adapters` computes, attaches and detaches them, and
`LowRankAdaptation` is a recipe in place of `kmr.finetune.FineTune`, after any rule, that changes no cost. As a
technique of its own, `BottleneckAdapters` freezes a model and adds adapters with a nonlinearity; its costs are
`TrainableParameters` and `OptimizerBytes`.
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
