"""Tasks with one class out of several: for a sample, a token or a pixel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from kmr.core import KMRError, NonFiniteReading
from kmr.tasks.base import TensorTask, mean_of, with_weights
from kmr.tasks.scores import ClassScores


@dataclass(frozen=True, kw_only=True)
class Classification(TensorTask):
    """One class for each sample, or for each place of a sample.

    Logits have shape (n, classes), or (n, classes, …) with a target for each of the further places. Targets are class
    numbers of shape (n) or (n, …), or probabilities of the classes, (n, classes).

    Args:
        class_axis: the axis of the classes in the logits; None is the task's own.
        ignore_index: the target of places that do not count.
        class_weights: the weight of each class in the loss, as in `torch.nn.functional.cross_entropy`.
        label_smoothing: the share of probability that the loss spreads over all classes, in [0, 1].
    """

    own_axis: ClassVar[int] = 1
    class_axis: int | None = None
    ignore_index: int = -100
    class_weights: Sequence[float] | None = None
    label_smoothing: float = 0.0

    @property
    def axis(self) -> int:
        """The axis of the classes in the logits."""
        return self.own_axis if self.class_axis is None else self.class_axis

    @property
    def convention(self) -> str:
        layout = "(n, …, classes)" if self.axis == -1 else "(n, classes, …)"
        return (
            f"logits of shape {layout} and class numbers of shape (n, …); set task.class_axis for another layout and "
            "task.ignore_index for targets that do not count"
        )

    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        targets, sample_weights = with_weights(targets, outputs.device)
        logits, aims = self.aligned(outputs, targets)
        weight = None
        if self.class_weights is not None:
            weight = torch.tensor(list(self.class_weights), dtype=logits.dtype, device=logits.device)
            if len(weight) != logits.shape[-1]:
                raise KMRError(f"class_weights has {len(weight)} numbers, the model {logits.shape[-1]} classes")
        ignored = {} if aims.is_floating_point() else {"ignore_index": self.ignore_index}
        if not aims.is_floating_point():
            self._check_range(aims, logits.shape[-1])
        flat = logits.flatten(0, -2), aims.flatten(0, -2) if aims.is_floating_point() else aims.flatten()
        how: Any = {"weight": weight, "label_smoothing": self.label_smoothing, **ignored}
        if sample_weights is None:
            return F.cross_entropy(*flat, **how)
        each = F.cross_entropy(*flat, **how, reduction="none").reshape(len(outputs), -1).mean(1)
        return mean_of(each, sample_weights)

    def scores(self, outputs: Tensor, targets: Any) -> ClassScores:
        targets, sample_weights = with_weights(targets, outputs.device)
        logits, aims = self.aligned(outputs, targets)
        if any(bool(part.isnan().any()) for part in logits):
            raise NonFiniteReading("the model has diverged, or its inputs contain NaN: its outputs do")
        if aims.is_floating_point():
            aims = aims.argmax(-1)
        samples = len(logits)
        sample = torch.arange(samples, device=logits.device)
        sample = sample.reshape(-1, *[1] * (aims.dim() - 1)).expand_as(aims).reshape(-1)
        aims, places = aims.reshape(-1), None
        counted = aims != self.ignore_index
        if not bool(counted.all()):
            places = torch.nonzero(counted).flatten()
            aims, sample = aims[places], sample[places]
        self._check_range(aims, logits.shape[-1])
        weights = None if sample_weights is None else sample_weights[sample]
        rows = logits.reshape(-1, logits.shape[-1])
        return ClassScores(samples, all_logits=rows, places=places, targets=aims, sample=sample, weights=weights)

    def aligned(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (n, …, classes), and targets (n, …), or (n, …, classes) of probabilities.

        Raises:
            KMRError: the shapes do not fit; the message gives both.
        """
        if outputs.dim() < 2 or not -outputs.dim() <= self.axis < outputs.dim() or outputs.shape[self.axis] < 2:
            raise KMRError(
                f"outputs of shape {tuple(outputs.shape)} are not logits of at least 2 classes: {self._named} takes "
                f"{self.convention}"
            )
        logits = outputs.movedim(self.axis, -1)
        if targets.dtype == torch.bool:
            targets = targets.long()
        if targets.is_floating_point() and targets.shape == outputs.shape:
            targets = targets.movedim(self.axis, -1)
            if bool((targets < 0).any()) or not bool((targets.sum(-1) - 1).abs().max() <= 1e-3):
                raise KMRError(
                    f"targets of shape {tuple(targets.shape)} are neither class numbers nor probabilities that sum to "
                    f"1: {self._named} takes {self.convention}"
                )
            return logits, targets
        if targets.dim() == logits.dim() and targets.shape[1:2] == (1,) and targets.dim() > 1:
            targets = targets.squeeze(1)  # (n, 1) labels, and masks (n, 1, height, width)
        if (
            targets.is_floating_point()
            and bool((targets == targets.round()).all())
            and targets.shape == logits.shape[:-1]
        ):
            raise KMRError(
                f"targets are {targets.dtype} of shape {tuple(targets.shape)}; class numbers must be integers: convert "
                "them with .long()"
            )
        if targets.is_floating_point() or targets.shape != logits.shape[:-1]:
            raise KMRError(
                f"targets are {targets.dtype} of shape {tuple(targets.shape)}, outputs have shape "
                f"{tuple(outputs.shape)}: {self._named} takes {self.convention}"
            )
        return logits, targets

    @property
    def _named(self) -> str:
        return type(self).__name__

    def _check_range(self, aims: Tensor, classes: int) -> None:
        """Raise `KMRError` for class numbers that the model does not have."""
        wrong = aims[((aims < 0) | (aims >= classes)) & (aims != self.ignore_index)]
        if len(wrong):
            raise KMRError(
                f"targets contain {int(wrong[0])}; the model has {classes} classes, numbered 0 to {classes - 1}: "
                f"number classes from 0; if it marks what does not count, set task.ignore_index={int(wrong[0])}"
            )


@dataclass(frozen=True, kw_only=True)
class TokenClassification(Classification):
    """One class for each token: logits (n, length, classes) and targets (n, length)."""

    own_axis: ClassVar[int] = -1


@dataclass(frozen=True, kw_only=True)
class MaskedLM(TokenClassification):
    """Masked language modelling: targets are the tokens at masked positions and −100 elsewhere (Devlin et al. 2019)."""


@dataclass(frozen=True, kw_only=True)
class CausalLM(TokenClassification):
    """Next-token prediction: logits (n, length, vocabulary); position t predicts token t + 1.

    Targets are the input tokens, as in transformers: the task shifts them. Without targets it takes the inputs.
    Padding, where `attention_mask` is 0, does not count.

    Args:
        shifted: the targets are next tokens already, so that the task does not shift them.
    """

    shifted: bool = False

    def prepare(self, inputs: Any, targets: Any) -> tuple[Any, Any]:
        inputs, targets = super().prepare(inputs, targets)
        if targets is None:
            tokens = inputs.get("input_ids") if isinstance(inputs, Mapping) else inputs
            if not isinstance(tokens, Tensor) or tokens.is_floating_point():
                raise KMRError("CausalLM finds no targets: give labels, or tokens in input_ids")
            if self.shifted:
                raise KMRError("CausalLM with shifted=true needs targets: the next tokens")
            targets = tokens
        mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
        if isinstance(mask, Tensor) and isinstance(targets, Tensor) and mask.shape == targets.shape:
            targets = targets.masked_fill(mask == 0, self.ignore_index)
        return inputs, targets

    def aligned(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits, targets = super().aligned(outputs, targets)
        if self.shifted:
            return logits, targets
        if logits.shape[1] < 2:
            raise KMRError(f"a causal model needs at least 2 tokens to predict one, not {logits.shape[1]}")
        # The last position predicts nothing; ignoring it saves a copy of all others.
        return logits, F.pad(targets[:, 1:], (0, 1), value=self.ignore_index)


@dataclass(frozen=True, kw_only=True)
class Segmentation(Classification):
    """One class for each pixel: logits (n, classes, height, width) and targets (n, height, width).

    Args:
        resize: enlarge logits of a lower resolution to that of the targets (bilinearly), as transformers does.
    """

    resize: bool = False

    def aligned(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        size = targets.shape[-2:]
        if self.resize and outputs.dim() == 4 and outputs.shape[-2:] != size:
            outputs = F.interpolate(outputs, size=size, mode="bilinear", align_corners=False)
        return super().aligned(outputs, targets)
