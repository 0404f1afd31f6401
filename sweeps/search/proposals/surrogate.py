"""Surrogate of an objective over the knobs: a Gaussian process on warped values, most accurate near the best ones.

Losses of networks have heavy tails: a diverged run is a thousand times worse than a good one, and a model of plain
values would mostly fit such runs. Values are therefore warped by asinh((value − best) / (first quartile − best)), which
is linear near the best value and logarithmic in the tail. Unlike ranks, the warp keeps the distances between good
values, on which hypervolume depends.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.special import ndtr

from kmr.core import Choice, Domain, Value
from sweeps.search.space import Space, is_nominal

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

_ROOT5 = 5**0.5
_GROWTH = 1.1
"""Growth of the number of trials since the last fit of the length scales at which they are fitted again."""
_PRIOR_MEAN, _PRIOR_STD = -1.0, 1.5
"""Prior of log(1/length²) of a column: one column alone lowers the correlation from 1 to about 0.75."""
_NOISE_MEAN, _NOISE_STD = float(np.log(0.02)), 1.5


class Encoder:
    """Encoder of knob vectors as features in [0, 1], so that squared distances add up over features.

    A range is encoded by value and a choice of numbers by rank, in one feature each. Any other choice has a feature for
    each value, so that two different values are 1 apart.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        widths = [len(domain.values) if is_nominal(domain) else 1 for domain in space.values()]  # type: ignore[union-attr]
        self.columns = np.repeat(np.arange(len(space)), widths)
        """(f,) the knob of each feature."""

    def __call__(self, vectors: Sequence[Mapping[str, Value]]) -> Array:
        """Return (n, f) features."""
        parts = [_features(domain, [vector[name] for vector in vectors]) for name, domain in self._space.items()]
        return np.concatenate(parts, axis=1)


def _features(domain: Domain, values: Sequence[Value]) -> Array:
    if isinstance(domain, Choice):
        if is_nominal(domain):
            places = {value: place for place, value in enumerate(domain.values)}
            return np.eye(len(domain.values))[[places[value] for value in values]] / 2**0.5
        ranks = {
            value: place / max(len(domain.values) - 1, 1)
            for place, value in enumerate(sorted(domain.values, key=float))
        }
        return np.array([[ranks[value]] for value in values])
    numbers, bounds = np.array(values, dtype=np.float64)[:, None], np.array([domain.low, domain.high], dtype=np.float64)
    if domain.log:
        numbers, bounds = np.log(numbers), np.log(bounds)
    return np.asarray((numbers - bounds[0]) / ((bounds[1] - bounds[0]) or 1.0))


class Surrogate:
    """Gaussian process on warped values: Matérn 5/2, one length scale per column, maximum a posteriori.

    Args:
        columns: (f,) the column of each feature of the inputs, from 0; the features of one column share a length scale.
    """

    def __init__(self, columns: Sequence[int]) -> None:
        self._columns = np.asarray(columns, dtype=np.intp)
        count = int(self._columns.max()) + 1
        self._centre = np.array([_PRIOR_MEAN] * count + [_NOISE_MEAN])
        self._spread = np.array([_PRIOR_STD] * count + [_NOISE_STD])
        self._logs = self._centre
        self._fitted_on = 0

    def fit(self, inputs: Array, values: Array) -> None:
        """Fit (n,) values, to minimise, at (n, f) inputs; n ≥ 2."""
        self._best = float(values.min())
        self._scale = float(np.quantile(values, 0.25)) - self._best or float(np.ptp(values)) or 1.0
        warped = np.arcsinh((values - self._best) / self._scale)
        self._mean, self._std = float(warped.mean()), float(warped.std()) or 1.0
        targets = (warped - self._mean) / self._std
        self._inputs = inputs
        if len(values) >= _GROWTH * self._fitted_on:
            bounds = [(-6.0, 5.0)] * (len(self._centre) - 1) + [(-14.0, 0.0)]
            loss = (inputs, self._columns, targets, self._centre, self._spread)
            found = minimize(
                _loss, self._logs, args=loss, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 25}
            )
            self._logs, self._fitted_on = found.x, len(values)
        kernel = _matern(self._distances(inputs, inputs))[0]
        self._factor = np.linalg.cholesky(kernel + np.exp(self._logs[-1]) * np.eye(len(values)))
        self._alpha = cho_solve((self._factor, True), targets)
        self._amplitude = max(float(targets @ self._alpha) / len(targets), 1e-6)

    def predict(self, inputs: Array) -> tuple[Array, Array]:
        """Return (m,) means and (m,) standard deviations at (m, f) inputs, on the warped scale."""
        cross = _matern(self._distances(inputs, self._inputs))[0]
        explained = (solve_triangular(self._factor, cross.T, lower=True) ** 2).sum(axis=0)
        return cross @ self._alpha, np.sqrt(np.maximum(1.0 - explained, 1e-9) * self._amplitude)

    def probability_below(self, inputs: Array, value: float) -> Array:
        """Return (m,) probabilities that the values at (m, f) inputs are at most `value`."""
        mean, std = self.predict(inputs)
        warped = (np.arcsinh((value - self._best) / self._scale) - self._mean) / self._std
        return np.asarray(ndtr((warped - mean) / std))

    def unwarp(self, warped: Array) -> Array:
        """Map the warped scale back to values."""
        return np.asarray(self._best + self._scale * np.sinh(np.clip(warped * self._std + self._mean, -5.0, 50.0)))

    def _distances(self, a: Array, b: Array) -> Array:
        scale = np.exp(0.5 * self._logs[:-1])[self._columns]
        return _squared_distances(a * scale, b * scale)


def _squared_distances(a: Array, b: Array) -> Array:
    """Return (m, n) squared distances, as a matrix product."""
    return np.asarray((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2.0 * a @ b.T)


def _matern(squares: Array) -> tuple[Array, Array]:
    """Return the kernel and its derivative with respect to the squared distance."""
    r = np.sqrt(np.maximum(squares, 0.0)) * _ROOT5
    decay = np.exp(-r)
    return (1 + r + r**2 / 3) * decay, -(5 / 6) * (1 + r) * decay


def _loss(
    logs: Array,
    inputs: Array,
    columns: np.ndarray[Any, np.dtype[np.intp]],
    targets: Array,
    centre: Array,
    spread: Array,
) -> tuple[float, Array]:
    """Return the negative log posterior of log weights and log noise, at the best amplitude, and its gradient."""
    n, noise = len(targets), np.exp(logs[-1])
    weights = np.exp(logs[:-1])
    scaled = inputs * np.sqrt(weights)[columns]
    kernel, slope = _matern(_squared_distances(scaled, scaled))
    try:
        factor = cho_factor(kernel + noise * np.eye(n), lower=True)
    except LinAlgError:
        return 1e10, np.zeros_like(logs)
    inverse = cho_solve(factor, np.eye(n))
    alpha = inverse @ targets
    amplitude = max(float(targets @ alpha) / n, 1e-12)
    outer = inverse - np.outer(alpha, alpha) / amplitude
    away = (logs - centre) / spread
    loss = 0.5 * n * np.log(amplitude) + np.log(np.diag(factor[0])).sum() + 0.5 * away @ away
    # Σ_ij g_ij (x_i − x_j)² = 2 Σ_i x_i² Σ_j g_ij − 2 xᵀ g x, for every feature.
    pulls = outer * slope
    by_feature = 2.0 * (pulls.sum(axis=1) @ inputs**2 - (inputs * (pulls @ inputs)).sum(axis=0))
    by_weight = 0.5 * weights * np.bincount(columns, by_feature, minlength=len(weights))
    return float(loss), np.append(by_weight, 0.5 * noise * np.trace(outer)) + away / spread
