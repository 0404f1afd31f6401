"""Tasks: where a model meets its data.

A task says how a batch goes into the model, what comes out, the loss, and what is kept of a prediction.
`Classification` has one class for each sample, `TokenClassification`, `CausalLM` and `MaskedLM` one for each token,
`Segmentation` one for each pixel; `MultiLabel` a yes or no for each label, `Regression` numbers, `Embedding` a vector,
`Detection` boxes, `CTC` texts. A task of a user's own is a small class with the methods of `Task`.
"""

from kmr.core.task import Task
from kmr.tasks.base import TensorTask, Weighted
from kmr.tasks.choose import choose_task, task_before_call, task_of
from kmr.tasks.classes import CausalLM, Classification, MaskedLM, Segmentation, TokenClassification
from kmr.tasks.detection import Detection
from kmr.tasks.losses import TaskLoss, numbers
from kmr.tasks.numbers import Embedding, MultiLabel, Regression
from kmr.tasks.objective import BoundLoss, bound_loss, quiet, task_for
from kmr.tasks.scores import BoxScores, ClassScores, LabelScores, NumberScores, Scores, TextScores, VectorScores
from kmr.tasks.transcription import CTC

__all__ = [
    "CTC",
    "BoxScores",
    "CausalLM",
    "ClassScores",
    "Classification",
    "Detection",
    "Embedding",
    "LabelScores",
    "MaskedLM",
    "MultiLabel",
    "NumberScores",
    "BoundLoss",
    "Regression",
    "Scores",
    "Segmentation",
    "Task",
    "TaskLoss",
    "TensorTask",
    "TextScores",
    "TokenClassification",
    "VectorScores",
    "Weighted",
    "choose_task",
    "numbers",
    "bound_loss",
    "quiet",
    "task_before_call",
    "task_for",
    "task_of",
]
