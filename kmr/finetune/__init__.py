"""Fine-tuning: one small loop that recovers quality after a move, and trains a base model.

What a recipe decides is apart from the loop. What is minimised is a loss of (outputs, targets) (`losses`), or the
user's own of (model, batch). How fast is any optimizer and scheduler of torch (`schedules`). When to stop and which
weights to keep is read off samples kept aside (`selection`). What else a model is to learn, a teacher's outputs say, is
a guide (`guides`; those of distillation are in `kmr.instantiations.distillation`).
"""

from kmr.finetune.guides import Batch, Guidance, Guide
from kmr.finetune.loop import FineTune, Progress
from kmr.finetune.losses import Loss, mean_squared_error, next_token_cross_entropy, token_cross_entropy

__all__ = [
    "Batch",
    "FineTune",
    "Guidance",
    "Guide",
    "Loss",
    "Progress",
    "mean_squared_error",
    "next_token_cross_entropy",
    "token_cross_entropy",
]
