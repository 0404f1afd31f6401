"""Parameter-efficient fine-tuning (Algorithm 8): what recovers a model is small, and gone into it in the end.

What an adapter computes and how it is put on a weight and taken off is in `adapters`; `LowRankAdaptation` is a recipe
that stands wherever `kmr.finetune.FineTune` does, after any rule.
"""

from kmr.instantiations.peft.adapters import Adapter, adapter_parameters, attach, detach, largest_rank
from kmr.instantiations.peft.recipe import LowRankAdaptation

__all__ = ["Adapter", "LowRankAdaptation", "adapter_parameters", "attach", "detach", "largest_rank"]
