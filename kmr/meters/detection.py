"""Quality of detections: mean average precision."""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from kmr.meters.prediction import PredictionQuality
from kmr.meters.predictions import ScoredBatch
from kmr.tasks import BoxScores

_MOST = 100
"""The largest number of detections, and of true boxes, that are read of an image, as in COCO."""
_THRESHOLDS = torch.arange(10, dtype=torch.float64) * 0.05 + 0.5


@final
@dataclass(frozen=True, kw_only=True)
class MeanAveragePrecision(PredictionQuality):
    """The mean average precision over classes and over thresholds 0.5, 0.55, …, 0.95 of intersection over union.

    Unit: fraction. Range: [0, 1]. Direction: maximize. Source: Lin et al. 2014 (COCO), with 101 points of recall
    and at most 100 detections an image.

    Each image keeps, for each detection, its class, its score and the thresholds at which it matches a true box.

    Args:
        data: the split, or a view of it.
    """

    name: str = "map"
    unit: str = field(init=False, default="fraction")

    def statistics(self, batch: ScoredBatch) -> Tensor:
        """Return rows of (class + 1, score, matches as bits) for each detection, then class + 1 of each true box."""
        seen = self.needs(batch, BoxScores)
        rows = torch.zeros(seen.samples, 4 * _MOST, dtype=torch.float64)
        for row, found, true in zip(rows, seen.outputs, seen.targets, strict=True):
            order = found["scores"].argsort(descending=True, stable=True)[:_MOST]
            labels, scores = found["labels"][order].double(), found["scores"][order].double()
            hits = _matches(found["boxes"][order].double(), labels, true["boxes"].double(), true["labels"].double())
            parts = torch.stack([labels + 1, scores, hits], 1).flatten()
            row[: len(parts)] = parts
            classes = true["labels"][:_MOST].double() + 1
            row[3 * _MOST : 3 * _MOST + len(classes)] = classes
        return rows

    def value(self, rows: Tensor) -> float:
        found, true = rows[:, : 3 * _MOST].reshape(-1, 3), rows[:, 3 * _MOST :].flatten()
        found, true = found[found[:, 0] > 0], true[true > 0]
        each = [
            _average_precision(found[found[:, 0] == label], int((true == label).sum())) for label in torch.unique(true)
        ]
        return float(torch.stack(each).mean()) if each else 0.0


def _matches(boxes: Tensor, labels: Tensor, true: Tensor, classes: Tensor) -> Tensor:
    """Return, for each detection by falling score, the thresholds at which it takes a free true box, as bits."""
    overlap = _iou(boxes, true) * (labels[:, None] == classes[None, :])
    bits = torch.zeros(len(boxes), dtype=torch.float64)
    for place, threshold in enumerate(_THRESHOLDS):
        free = torch.ones(len(true), dtype=torch.bool)
        for number, row in enumerate(overlap):
            open_row = row * free
            if len(open_row) and float(open_row.max()) >= float(threshold) - 1e-12:
                free[int(open_row.argmax())] = False
                bits[number] += 2**place
    return bits


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union of boxes (n, 4) and others (m, 4), (n, m)."""
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    inside = (high - low).clamp(min=0).prod(-1)
    areas = [(part[:, 2:] - part[:, :2]).clamp(min=0).prod(-1) for part in (boxes, others)]
    return inside / (areas[0][:, None] + areas[1][None, :] - inside).clamp(min=1e-12)


def _average_precision(found: Tensor, true: int) -> Tensor:
    """Return the average precision of one class, averaged over thresholds."""
    found = found[found[:, 1].argsort(descending=True, stable=True)]
    bits = found[:, 2].long()
    hits = torch.stack([(bits >> place) & 1 for place in range(len(_THRESHOLDS))], 1).double()
    right = hits.cumsum(0)
    precision = right / torch.arange(1, len(found) + 1, dtype=torch.float64)[:, None]
    # The precision at a recall is the best at this recall or a higher one.
    best = precision.flip(0).cummax(0).values.flip(0) if len(found) else precision
    recalls = right / true
    total = torch.zeros((), dtype=torch.float64)
    for level in torch.linspace(0, 1, 101, dtype=torch.float64):
        reached = recalls >= level - 1e-12
        first = reached.double().argmax(0) if len(found) else torch.zeros(len(_THRESHOLDS), dtype=torch.long)
        if len(found):
            total = total + torch.where(reached.any(0), best.gather(0, first[None])[0], 0.0).mean()
    return total / 101
