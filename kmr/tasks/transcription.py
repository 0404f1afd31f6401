"""Tasks whose outputs are read as texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kmr.core import KMRError, NonFiniteReading
from kmr.tasks.base import TensorTask, mean_of, with_weights
from kmr.tasks.scores import TextScores


@dataclass(frozen=True, kw_only=True)
class CTC(TensorTask):
    """Transcription without alignment: logits (n, time, symbols) and symbol numbers (n, length), filled up at the end.

    The loss is that of connectionist temporal classification (Graves et al. 2006). A text is the best symbol of each
    time, without repeats and blanks. All times of an output count: pad inputs before the batch is made, or crop them.

    Args:
        symbols: the text of each symbol, in the order of the logits; None writes numbers, so that a symbol is a word.
        blank: the number of the blank.
        ignore_index: the target that fills up short texts.
        class_axis: the axis of the symbols in the logits.
    """

    symbols: Sequence[str] | None = None
    blank: int = 0
    ignore_index: int = -100
    class_axis: int = -1

    @property
    def convention(self) -> str:
        return "logits (n, time, symbols) and symbol numbers (n, length); set task.class_axis for another layout"

    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        targets, weights = with_weights(targets, outputs.device)
        logits, aims = self._aligned(outputs, targets)
        logs = F.log_softmax(logits.float(), dim=-1).transpose(0, 1)
        counted = aims != self.ignore_index
        lengths = counted.sum(1)
        times = torch.full_like(lengths, logits.shape[1])
        each = F.ctc_loss(
            logs, aims.masked_fill(~counted, self.blank), times, lengths, self.blank, "none", zero_infinity=True
        )
        return mean_of(each / lengths.clamp(min=1), weights)

    def scores(self, outputs: Tensor, targets: Any) -> TextScores:
        targets, _ = with_weights(targets, outputs.device)
        logits, aims = self._aligned(outputs, targets)
        if bool(logits.isnan().any()):
            raise NonFiniteReading("the model has diverged: its outputs contain NaN")
        found = [[key for key, _ in groupby(row) if key != self.blank] for row in logits.argmax(-1).tolist()]
        true = [[symbol for symbol in row if symbol != self.ignore_index] for row in aims.tolist()]
        return TextScores(len(logits), outputs=[*map(self._text, found)], targets=[*map(self._text, true)])

    def _text(self, numbers: Sequence[int]) -> str:
        if self.symbols is None:
            return " ".join(map(str, numbers))
        return "".join(self.symbols[number] for number in numbers)

    def _aligned(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (n, time, symbols) and targets (n, length); raise `KMRError` if they do not fit."""
        if outputs.dim() != 3 or targets.dim() != 2 or len(outputs) != len(targets) or targets.is_floating_point():
            raise KMRError(
                f"targets are {targets.dtype} of shape {tuple(targets.shape)}, outputs have shape "
                f"{tuple(outputs.shape)}: CTC takes {self.convention}"
            )
        logits = outputs.movedim(self.class_axis, -1)
        count = logits.shape[-1]
        if self.symbols is not None and len(self.symbols) != count:
            raise KMRError(f"symbols has {len(self.symbols)} texts, the model {count} outputs")
        if not 0 <= self.blank < count:
            raise KMRError(f"blank must be a symbol from 0 to {count - 1}, not {self.blank}")
        aims = targets.long()
        kept = aims != self.ignore_index
        if bool((kept[:, 1:] & ~kept[:, :-1]).any()):
            raise KMRError(f"targets go on after {self.ignore_index}, which fills up texts at their end")
        wrong = aims[kept & ((aims < 0) | (aims >= count) | (aims == self.blank))]
        if len(wrong):
            raise KMRError(
                f"targets contain {int(wrong[0])}; the model has symbols 0 to {count - 1}, and {self.blank} is the "
                f"blank: if it fills up short texts, set task.ignore_index={int(wrong[0])}"
            )
        return logits, aims
