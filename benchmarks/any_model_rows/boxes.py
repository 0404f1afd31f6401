"""Mean average precision of detections, computed box by box in NumPy as its definition says."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

Detections = Sequence[dict[str, Tensor]]


def mean_average_precision(found: Detections, true: Detections) -> float:
    """Return the mean over classes and thresholds of intersection over union from 0.5 to 0.95, at 101 recalls."""
    kinds = sorted({int(label) for one in true for label in one["labels"]})
    thresholds = np.arange(10) * 0.05 + 0.5
    return float(np.mean([_average(found, true, kind, limit) for kind in kinds for limit in thresholds]))


def _average(found: Detections, true: Detections, kind: int, limit: float) -> float:
    wanted = {image: _of(one, kind) for image, one in enumerate(true)}
    taken = {image: np.zeros(len(boxes), dtype=bool) for image, boxes in wanted.items()}
    guesses: list[tuple[float, int, Any]] = []
    for image, one in enumerate(found):
        scores = one["scores"][one["labels"] == kind].double().numpy()
        guesses += [(score, image, box) for score, box in zip(scores, _of(one, kind), strict=True)]
    guesses.sort(key=lambda guess: -guess[0])
    hits = []
    for _, image, box in guesses:
        overlaps = [
            0.0 if gone else _overlap(box, other) for gone, other in zip(taken[image], wanted[image], strict=True)
        ]
        best = int(np.argmax(overlaps)) if overlaps else -1
        hits.append(best >= 0 and overlaps[best] >= limit - 1e-12)
        if hits[-1]:
            taken[image][best] = True
    right = np.cumsum(hits)
    count = sum(map(len, wanted.values()))
    precisions = right / np.arange(1, len(hits) + 1) if hits else np.zeros(0)
    recalls = right / count if hits else np.zeros(0)
    return float(np.mean([max(precisions[recalls >= level - 1e-12], default=0.0) for level in np.linspace(0, 1, 101)]))


def _of(one: dict[str, Tensor], kind: int) -> Any:
    return one["boxes"][one["labels"] == kind].double().numpy()


def _overlap(one: Any, other: Any) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    inside = np.prod(np.clip(high - low, 0, None))
    areas = [np.prod(np.clip(box[2:] - box[:2], 0, None)) for box in (one, other)]
    return float(inside / max(sum(areas) - inside, 1e-12))
