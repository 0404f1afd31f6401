"""Right values in plain PyTorch, NumPy and scikit-learn, without any code of this project."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from sklearn import metrics
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.any_model_rows.row import Readings


def called(model: nn.Module, inputs: Any) -> Any:
    """Call a model in evaluation mode as its user would: a tuple by position, a dict by name."""
    model.eval()
    with torch.no_grad():
        if isinstance(inputs, Mapping):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def tensor_of(output: Any) -> Tensor:
    """Return the tensor in what a model returns: itself, its logits, or the first of several."""
    while not isinstance(output, Tensor):
        if isinstance(output, Mapping):
            output = output["logits"] if "logits" in output else next(iter(output.values()))
        elif hasattr(output, "logits"):
            output = output.logits
        else:
            output = output[0]
    return output


def logits_of(model: nn.Module, inputs: Any) -> Tensor:
    """Return a model's outputs in double precision."""
    return tensor_of(called(model, inputs)).double()


def classes(model: nn.Module, inputs: Any, targets: Tensor, ignore: int = -100) -> Readings:
    """Return accuracy, cross-entropy and macro F1 of logits (n, classes), or (…, classes) with targets (…)."""
    logits = logits_of(model, inputs)
    return of_logits(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1).long(), ignore)


def of_logits(logits: Tensor, targets: Tensor, ignore: int = -100) -> Readings:
    """Return qualities of logits (n, classes) and targets (n)."""
    kept = targets != ignore
    logits, targets = logits[kept], targets[kept]
    guess = logits.argmax(-1).numpy()
    loss = -logits.log_softmax(-1).gather(-1, targets[:, None]).mean().item()
    true = targets.numpy()
    present = sorted(set(true.tolist()) | set(guess.tolist()))
    return {
        "accuracy": float((guess == true).mean()),
        "cross_entropy": loss,
        "perplexity": float(np.exp(loss)),
        "bits_per_byte": loss / float(np.log(2)),
        "f1": float(metrics.f1_score(true, guess, average="macro", labels=present, zero_division=0)),
        "iou": float(metrics.jaccard_score(true, guess, average="macro", labels=present, zero_division=0)),
    }


def labels(model: nn.Module, inputs: Any, targets: Tensor) -> Readings:
    """Return accuracy, cross-entropy and macro F1 of labels (n, labels)."""
    logits = logits_of(model, inputs).reshape(targets.shape if targets.dim() > 1 else (-1, 1))
    true = targets.reshape(logits.shape).double()
    guess = (logits > 0).double()
    return {
        "accuracy": (guess == true).double().mean().item(),
        "cross_entropy": F.binary_cross_entropy_with_logits(logits, true).item(),
        "f1": float(metrics.f1_score(true.numpy(), guess.numpy(), average="macro", zero_division=0)),
    }


def numbers(model: nn.Module, inputs: Any, targets: Tensor) -> Readings:
    """Return errors and R² of numbers; each output of R² has its own mean."""
    outputs = logits_of(model, inputs).reshape(len(targets), -1).numpy()
    true = targets.double().reshape(len(targets), -1).numpy()
    spread = ((true - true.mean(0)) ** 2).sum()
    return {
        "mse": float(metrics.mean_squared_error(true, outputs)),
        "mae": float(metrics.mean_absolute_error(true, outputs)),
        "r2": float(1 - ((true - outputs) ** 2).sum() / spread),
    }


def on(data: Callable[[], Any], read: Callable[..., Readings] = classes) -> Callable[[nn.Module], Readings]:
    """Return the truth of rows whose test split is a pair of tensors."""

    def truth(model: nn.Module) -> Readings:
        inputs, targets = data()["test"]
        return read(model, inputs, targets)

    return truth
