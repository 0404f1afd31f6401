"""Fine-tuning: one small loop that recovers quality after a move, and trains a base model.

The parts of a recipe are separate from the loop. The loss is a function of (outputs, targets) (`losses`), or the user's
own function of (model, batch). The learning rate follows any optimizer and scheduler of torch (`schedules`). Held-out
samples decide when to stop and which weights to keep (`selection`). A guide adds another goal, such as a teacher's
outputs (`guides`; those of distillation are in `kmr.instantiations.distillation`).
"""

from kmr.finetune.guides import Batch, Guidance, Guide
from kmr.finetune.loop import FineTune, ProgressCallback
from kmr.finetune.losses import Loss, mean_squared_error, next_token_cross_entropy, token_cross_entropy

__all__ = [
    "Batch",
    "FineTune",
    "Guidance",
    "Guide",
    "Loss",
    "ProgressCallback",
    "mean_squared_error",
    "next_token_cross_entropy",
    "token_cross_entropy",
]
