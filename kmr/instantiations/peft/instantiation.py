"""Adapters as an instantiation: the costs are those of training, not of running."""

from collections.abc import Sequence

from kmr.core import Instantiation, Quality
from kmr.instantiations.peft.bottleneck_adapters import BottleneckAdapters
from kmr.meters.optimizer import OptimizerBytes
from kmr.meters.size import TrainableParameters


def adapter_tuning(rule: BottleneckAdapters, qualities: Sequence[Quality]) -> Instantiation:
    """Return adapters judged by the parameters that train, what an optimizer keeps of them, and the qualities given."""
    costs = (TrainableParameters(), OptimizerBytes())
    return Instantiation("adapter_tuning", (rule,), costs, tuple(qualities))
