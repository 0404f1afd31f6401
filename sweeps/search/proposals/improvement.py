"""Expected hypervolume improvement of candidates with known costs and predicted quality."""

from typing import Any, TypeAlias

import numpy as np
from scipy.stats import qmc

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

_SAMPLES = 2048


def expected_gain(points: Array, weights: Array, front: Array, reference: Array) -> Array:
    """Return the expected hypervolume that each candidate alone adds to a front, (n,); all objectives are minimised.

    The value is exact for two objectives. For more, it is the share of 2048 Halton points that the candidate dominates
    and the front does not.

    Args:
        points: (q, n, d) values of n candidates at the q nodes of a quadrature over the unknown objectives.
        weights: (q,) weights of the nodes, which sum to 1.
        front: (m, d) values of the present front.
        reference: (d,) reference point of the hypervolume.
    """
    if points.shape[2] == 2:
        each = (_gain_2d(at_node, front, reference) for at_node in points)
    else:
        low = np.minimum(front.min(axis=0), np.quantile(points, 0.05, axis=(0, 1)))
        sampled = low + (reference - low) * qmc.Halton(len(reference), rng=0).random(_SAMPLES)
        sampled = sampled[~(front[None] <= sampled[:, None]).all(axis=2).any(axis=1)]
        volume = float(np.prod(reference - low)) / _SAMPLES
        each = (volume * _dominated(at_node, sampled) for at_node in points)
    return np.asarray(sum(weight * gain for weight, gain in zip(weights, each, strict=True)))


def _dominated(points: Array, sampled: Array) -> Array:
    inside = np.ones((len(points), len(sampled)), dtype=np.bool_)
    for column in range(points.shape[1]):
        inside &= points[:, None, column] <= sampled[None, :, column]
    return np.asarray(inside.sum(axis=1), dtype=np.float64)


def _gain_2d(points: Array, front: Array, reference: Array) -> Array:
    order = np.argsort(front[:, 0])
    x, y = front[order, 0], front[order, 1]
    # Between two neighbours on the front, the dominated region starts at the left neighbour's y.
    edges = np.concatenate([[-np.inf], x, [np.inf]])
    tops = np.concatenate([[reference[1]], np.minimum(y, reference[1])])
    left = np.maximum(edges[None, :-1], points[:, :1])
    right = np.minimum(edges[None, 1:], reference[0])
    heights = np.maximum(tops[None, :] - points[:, 1:2], 0.0)
    return np.asarray((np.maximum(right - left, 0.0) * heights).sum(axis=1))
