"""Knowledge distillation (Algorithm 7): a larger model helps to train a smaller one.

Each form of teaching is a guide, usable in any fine-tuning (`kmr.finetune.FineTune.guides`), and guides add up: outputs
of one or several teachers (`Response`), features through learned projections (`Hints`), attention maps
(`AttentionTransfer`), deeper exits (`SelfDistillation`), peers (`Mutual`). `Distillation` is the rule that makes the
student and trains it. The mathematics is in `losses`; `teachers` computes teachers' outputs once for a split.
"""

from kmr.instantiations.distillation.distil import Distillation
from kmr.instantiations.distillation.hints import AttentionTransfer, Hints
from kmr.instantiations.distillation.mutual import Mutual
from kmr.instantiations.distillation.response import Response
from kmr.instantiations.distillation.self_distillation import SelfDistillation
from kmr.instantiations.teachers import pretrained

__all__ = ["AttentionTransfer", "Distillation", "Hints", "Mutual", "Response", "SelfDistillation", "pretrained"]
