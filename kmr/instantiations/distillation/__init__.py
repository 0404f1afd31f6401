"""Knowledge distillation (Algorithm 7): what a larger model knows helps to train a smaller one.

What is taught is a guide, a part of any fine-tuning (`kmr.finetune.FineTune.guides`), and guides add up: answers
(`Response`, of one teacher or several), features through learned projections (`Hints`), where features are large
(`AttentionTransfer`), what deeper exits know (`SelfDistillation`), what peers do (`Mutual`). `Distillation` is the
rule: it makes the student and trains it so. The mathematics is in `losses`; what teachers say is computed once for a
split (`teachers`).
"""

from kmr.instantiations.distillation.distil import Distillation
from kmr.instantiations.distillation.hints import AttentionTransfer, Hints
from kmr.instantiations.distillation.mutual import Mutual
from kmr.instantiations.distillation.response import Response
from kmr.instantiations.distillation.self_distillation import SelfDistillation
from kmr.instantiations.teachers import pretrained

__all__ = ["AttentionTransfer", "Distillation", "Hints", "Mutual", "Response", "SelfDistillation", "pretrained"]
