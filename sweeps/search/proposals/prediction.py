"""Prediction of what training would show of vectors, from the complete trials."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from sweeps.search.proposals.surrogate import Encoder, Surrogate

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Vector: TypeAlias = dict[str, Any]
Costs: TypeAlias = Mapping[str, float]

_QUADRATURE = {0: 1, 1: 9, 2: 5, 3: 3, 4: 3}
"""Nodes for each unknown objective, by the number of unknown objectives; more of them share their nodes."""


class Trained(NamedTuple):
    """A complete trial: its vector, (d,) values in the study's order, static costs, and value − limit of each limit."""

    vector: Vector
    values: Array
    costs: Costs
    violations: Mapping[str, float]

    @property
    def is_feasible(self) -> bool:
        """Whether the trial is within all limits."""
        return all(value <= 0 for value in self.violations.values())


class Inputs:
    """Inputs of surrogates: encoded knobs, and static costs scaled to [0, 1]."""

    def __init__(self, encoder: Encoder, costs: Sequence[str], done: Sequence[Trained]) -> None:
        self._encoder, self._costs = encoder, costs
        known = np.array([[trial.costs[name] for name in costs] for trial in done]).reshape(len(done), len(costs))
        self._low, extent = known.min(axis=0), np.ptp(known, axis=0)
        self._extent = np.where(extent == 0, 1.0, extent)

    def __call__(self, vectors: Sequence[tuple[Vector, Costs]]) -> Array:
        rows = np.array([[readings[name] for name in self._costs] for _, readings in vectors])
        given = (rows.reshape(len(vectors), len(self._costs)) - self._low) / self._extent
        return np.hstack([self._encoder([vector for vector, _ in vectors]), given])


class Guess:
    """Prediction of vectors: values at the nodes of a quadrature, and the probability of being within the limits.

    Unknown objectives are independent: every node of one meets every node of another.
    """

    def __init__(
        self, inputs: Inputs, signs: Mapping[str, int], models: Mapping[str, Surrogate], limits: Mapping[str, Surrogate]
    ) -> None:
        self._inputs, self._signs, self._models, self._limits = inputs, signs, models, limits
        axes = max(1, len(models)) if len(models) in _QUADRATURE else 1
        nodes, weights = np.polynomial.hermite_e.hermegauss(_QUADRATURE.get(len(models), 9))
        self._nodes = np.stack(np.meshgrid(*[nodes] * axes), axis=-1).reshape(-1, axes)
        product = np.stack(np.meshgrid(*[weights] * axes), axis=-1).reshape(-1, axes).prod(axis=1)
        self._weights = product / product.sum()

    def __call__(self, vectors: Sequence[tuple[Vector, Costs]]) -> tuple[Array, Array]:
        """Return the (nodes, n, d) values, to minimise, and the (nodes,) weights."""
        return self._at(self._nodes, vectors), self._weights

    def expected(self, vectors: Sequence[tuple[Vector, Costs]]) -> Array:
        """Return the (n, d) values at the mean of the predictions."""
        return np.asarray(self._at(np.zeros((1, 1)), vectors)[0])

    def feasible(self, vectors: Sequence[tuple[Vector, Costs]]) -> Array:
        """Return (n,) probabilities of being within the limits on meters that are no objectives."""
        likely = np.ones(len(vectors))
        for model in self._limits.values():
            likely *= model.probability_below(self._inputs(vectors), 0.0)
        return likely

    def _at(self, nodes: Array, vectors: Sequence[tuple[Vector, Costs]]) -> Array:
        points = np.empty((len(nodes), len(vectors), len(self._signs)))
        encoded = self._inputs(vectors)
        own = iter(range(len(self._models)))
        for column, (name, sign) in enumerate(self._signs.items()):
            if name in self._models:
                mean, std = self._models[name].predict(encoded)
                at = nodes[:, min(next(own), nodes.shape[1] - 1), None]
                points[:, :, column] = self._models[name].unwarp(mean + at * std)
            else:
                points[:, :, column] = [sign * readings[name] for _, readings in vectors]
        return points
