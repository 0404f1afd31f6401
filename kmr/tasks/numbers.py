"""Tasks with numbers, several labels or vectors as outputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kmr.core import KMRError, NonFiniteReading
from kmr.tasks.base import TensorTask, mean_of, with_weights
from kmr.tasks.scores import LabelScores, NumberScores, VectorScores


@dataclass(frozen=True, kw_only=True)
class Regression(TensorTask):
    """Numbers: outputs and targets of one shape, (n,), (n, outputs) or (n, horizon, variables); (n, 1) fits (n,).

    Args:
        kind: the training loss: the `mse`, the `mae` or the `huber` loss (Huber 1964, with δ = 1).
    """

    kind: Literal["mse", "mae", "huber"] = "mse"

    @property
    def convention(self) -> str:
        return "outputs and targets of the same shape; (n, 1) fits (n,)"

    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        targets, weights = with_weights(targets, outputs.device)
        outputs, targets = self.aligned(outputs, targets)
        function: Any = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}.get(self.kind)
        if function is None:
            raise KMRError(f"the loss of Regression must be mse, mae or huber, not {self.kind!r}")
        each = function(outputs, targets.to(outputs.dtype), reduction="none")
        return each.mean() if weights is None else mean_of(each.reshape(len(each), -1).mean(1), weights)

    def scores(self, outputs: Tensor, targets: Any) -> NumberScores:
        targets, weights = with_weights(targets, outputs.device)
        outputs, targets = self.aligned(outputs, targets)
        if bool(outputs.isnan().any()):
            raise NonFiniteReading("the model has diverged, or its inputs contain NaN: its outputs do")
        flat = (part.reshape(len(part), -1).double() for part in (outputs, targets))
        return NumberScores(len(outputs), outputs=next(flat), targets=next(flat), weights=weights)

    def aligned(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs and targets of one shape; raise `KMRError` with both shapes if they do not fit."""
        if targets.is_floating_point() and bool(targets.isnan().any()):
            raise KMRError("targets contain NaN: leave those samples out, or fill in what is missing")
        if outputs.shape == targets.shape:
            return outputs, targets
        flat = outputs.shape[:1] == targets.shape[:1] and 1 in (outputs.dim(), targets.dim())
        if flat and outputs.numel() == targets.numel():
            return outputs.reshape(targets.shape), targets
        raise KMRError(
            f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}: Regression "
            f"takes {self.convention}"
        )


@dataclass(frozen=True, kw_only=True)
class MultiLabel(TensorTask):
    """A yes or no for each label: logits (n, labels) and targets 0 or 1 of the same shape; (n, 1) fits (n,).

    Args:
        label_weights: the weight of the yes of each label in the loss (`pos_weight` of binary cross-entropy).
        ignore_index: the target of labels that are not known.
    """

    label_weights: Sequence[float] | None = None
    ignore_index: int = -100

    @property
    def convention(self) -> str:
        return "logits and targets of 0 and 1, both of shape (n, labels); (n, 1) fits (n,)"

    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        targets, weights = with_weights(targets, outputs.device)
        logits, aims, counted = self.aligned(outputs, targets)
        scale = None
        if self.label_weights is not None:
            scale = torch.tensor(list(self.label_weights), dtype=logits.dtype, device=logits.device)
            if len(scale) not in (1, logits.shape[1]):
                raise KMRError(f"label_weights has {len(scale)} numbers, the model {logits.shape[1]} labels")
        each = F.binary_cross_entropy_with_logits(logits, aims.to(logits.dtype), pos_weight=scale, reduction="none")
        share = counted.to(each.dtype) if weights is None else counted * weights[:, None].to(each.dtype)
        return (each * share).sum() / share.sum().clamp(min=1e-12)

    def scores(self, outputs: Tensor, targets: Any) -> LabelScores:
        targets, weights = with_weights(targets, outputs.device)
        logits, aims, counted = self.aligned(outputs, targets)
        if bool(logits.isnan().any()):
            raise NonFiniteReading("the model has diverged, or its inputs contain NaN: its outputs do")
        sample = torch.arange(len(logits), device=logits.device)
        return LabelScores(
            len(logits), logits=logits, targets=aims.long(), counted=counted, sample=sample, weights=weights
        )

    def aligned(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits and targets (n, labels), and which targets are known; raise `KMRError` if they do not fit."""
        logits = outputs.reshape(len(outputs), -1) if outputs.dim() == 1 else outputs
        aims = targets.reshape(-1, 1) if targets.dim() == 1 else targets
        if logits.dim() != 2 or logits.shape != aims.shape:
            raise KMRError(
                f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}: "
                f"MultiLabel takes {self.convention}"
            )
        counted = aims != self.ignore_index
        aims = torch.where(counted, aims, torch.zeros_like(aims))
        wrong = aims[(aims != 0) & (aims != 1)]
        if len(wrong):
            raise KMRError(f"targets contain {wrong[0].item()}: MultiLabel takes {self.convention}")
        return logits, aims, counted


@dataclass(frozen=True, kw_only=True)
class Embedding(TensorTask):
    """A vector for each sample, (n, dimensions); targets, where there are any, number what should lie together.

    The loss pulls samples of one target together (supervised contrastive, Khosla et al. 2020); without targets there is
    no loss, and fine-tuning needs a guide or a loss of its own.

    Args:
        temperature: the divisor of the cosines, above 0.
    """

    temperature: float = 0.1

    @property
    def convention(self) -> str:
        return "vectors of shape (n, dimensions) and no targets, or numbers of shape (n,)"

    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        vectors = self._vectors(outputs)
        if targets is None:
            raise KMRError("Embedding has no loss without targets: set finetune.loss, or finetune=none")
        aims, _ = with_weights(targets, outputs.device)
        unit = F.normalize(vectors, dim=1)
        logits = unit @ unit.T / self.temperature
        itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
        logs = F.log_softmax(logits.masked_fill(itself, -torch.inf), dim=1).masked_fill(itself, 0.0)
        same = (aims[:, None] == aims[None, :]) & ~itself
        if not bool(same.any()):
            return vectors.sum() * 0
        each = -(logs * same).sum(1) / same.sum(1).clamp(min=1)
        return each[same.any(1)].mean()

    def scores(self, outputs: Tensor, targets: Any) -> VectorScores:
        vectors = self._vectors(outputs)
        return VectorScores(len(vectors), vectors=vectors, targets=targets if isinstance(targets, Tensor) else None)

    def _vectors(self, outputs: Tensor) -> Tensor:
        if outputs.dim() != 2:
            raise KMRError(
                f"outputs of shape {tuple(outputs.shape)} are not vectors of shape (n, dimensions): name the pooled "
                "output in task.output (pooler_output)"
            )
        if bool(outputs.isnan().any()):
            raise NonFiniteReading("the model has diverged, or its inputs contain NaN: its outputs do")
        return outputs
