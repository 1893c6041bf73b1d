"""A Gaussian process over points with categories and real numbers, fitted in a few milliseconds."""

from __future__ import annotations

import math

import attrs
import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, stats

Array = NDArray[np.float64]

_JITTER = 1e-6
_PRIOR_SPREAD = 1.0
_NOISE_PRIOR = (math.log(0.02), 1.5)


def distances(a: Array, b: Array, categorical: NDArray[np.bool_]) -> Array:
    """Per parameter, how far the rows of `a` [N, D] are from those of `b` [M, D]: [D, N, M].

    Categories: 1 where they differ (the Hamming distance), 0 where not. Real numbers: the squared difference of the
    places in the unit cube. A parameter that only one of the two points has (NaN in the other) counts 1.
    """
    apart = np.empty((a.shape[1], len(a), len(b)))
    missing_a, missing_b = np.isnan(a), np.isnan(b)
    x, y = np.where(missing_a, -1.0, a), np.where(missing_b, -1.0, b)  # no place is below 0
    for d, named in enumerate(categorical):
        if named:
            np.not_equal(x[:, d, None], y[None, :, d], out=apart[d], casting="unsafe")
        else:
            np.square(x[:, d, None] - y[None, :, d], out=apart[d])
            apart[d][missing_a[:, d, None] != missing_b[None, :, d]] = 1.0
    return apart


def ranks(values: Array) -> Array:
    """Values [N] as normal scores of their ranks (ties share one): mean about 0, variance about 1, order kept."""
    order = stats.rankdata(values)
    return np.asarray(stats.norm.ppf((order - 0.5) / len(values)), dtype=np.float64)


@attrs.define
class GaussianProcess:
    """Zero-mean process with the kernel exp(-Σ θ_c [x_c ≠ y_c]) · Matérn-5/2(√Σ θ_r (x_r - y_r)²) + noise.

    The product over categories is Hutter's weighted Hamming kernel (Hutter 2009, eq. 5.2; CoCaBO's with its indicator
    in the exponent), that over real numbers the usual one. The weights θ (inverse squared length scales), the scale and
    the noise are the mode of their posterior: normal priors on their logarithms, centred where a process over all
    parameters varies moderately, keep a dozen points from fixing them.
    """

    categorical: NDArray[np.bool_]
    parameters: Array = attrs.field(init=False)
    _rows: Array = attrs.field(init=False)
    _values: Array = attrs.field(init=False)
    _factor: Array = attrs.field(init=False)
    _alpha: Array = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.parameters = self.prior()

    def prior(self) -> Array:
        """Logarithms at the centre of the priors: D weights, scale, noise."""
        count = len(self.categorical)
        per_category = math.log(2.0 / count)
        per_number = math.log(4.0)
        weights = np.where(self.categorical, per_category, per_number)
        return np.concatenate([weights, [0.0, _NOISE_PRIOR[0]]])

    def fit(self, rows: Array, values: Array, steps: int = 15) -> None:
        """Choose the kernel's parameters by rows [N, D] of places and values [N], in `steps` steps of L-BFGS."""
        apart = distances(rows, rows, self.categorical)
        centre = self.prior()
        found = optimize.minimize(
            self._loss, centre, (apart, values, centre), jac=True, method="L-BFGS-B", options={"maxiter": steps},
            bounds=[(c - 5, c + 5) for c in centre],
        )  # fmt: skip
        if np.isfinite(found.x).all():
            self.parameters = found.x

    def _loss(self, parameters: Array, apart: Array, values: Array, centre: Array) -> tuple[float, Array]:
        """Negative log posterior of the parameters, and its gradient."""
        kernel, slopes = self._kernel(parameters, apart)
        scale, noise = np.exp(parameters[-2:])
        covariance = scale * kernel
        covariance.flat[:: len(values) + 1] += noise + _JITTER
        spread = np.full(len(parameters), _PRIOR_SPREAD)
        spread[-1] = _NOISE_PRIOR[1]
        off = (parameters - centre) / spread
        try:
            factor = linalg.cholesky(covariance, lower=True, check_finite=False)
        except linalg.LinAlgError:
            return 1e10, np.zeros_like(parameters)
        alpha = linalg.cho_solve((factor, True), values, check_finite=False)
        inverse = linalg.cho_solve((factor, True), np.eye(len(values)), check_finite=False)
        inner = inverse - np.outer(alpha, alpha)
        loss = 0.5 * values @ alpha + np.log(np.diagonal(factor)).sum() + 0.5 * off @ off
        gradient = np.empty_like(parameters)
        weighted = inner * scale
        for d, (distance, slope) in enumerate(zip(apart, slopes, strict=True)):
            gradient[d] = 0.5 * np.exp(parameters[d]) * np.vdot(weighted, slope * distance)
        gradient[-2] = 0.5 * np.vdot(weighted, kernel)
        gradient[-1] = 0.5 * noise * np.trace(inner)
        return float(loss), gradient + off / spread

    def _kernel(self, parameters: Array, apart: Array) -> tuple[Array, list[Array]]:
        """The kernel [N, M] for distances [D, N, M], and what dk/dθ_d is the distance times, per parameter."""
        weights = np.exp(parameters[:-2])
        of_names = np.exp(-np.tensordot(weights * self.categorical, apart, axes=1))
        if self.categorical.all():
            return of_names, [-of_names] * len(weights)
        numbers = np.tensordot(weights * ~self.categorical, apart, axes=1)
        root = np.sqrt(5 * numbers)
        decay = np.exp(-root)
        of_numbers = (1 + root + root**2 / 3) * decay
        kernel = of_names * of_numbers
        by_number = -(5 / 6) * (1 + root) * decay * of_names
        return kernel, [-kernel if c else by_number for c in self.categorical]

    def condition(self, rows: Array, values: Array) -> None:
        """Take up observations: rows [N, D], values [N]."""
        kernel, _ = self._kernel(self.parameters, distances(rows, rows, self.categorical))
        scale, noise = np.exp(self.parameters[-2:])
        covariance = scale * kernel
        covariance.flat[:: len(values) + 1] += noise + _JITTER
        self._rows, self._values = rows, values
        self._factor = linalg.cholesky(covariance, lower=True, check_finite=False)
        self._alpha = linalg.cho_solve((self._factor, True), values, check_finite=False)

    @property
    def noise(self) -> float:
        """Standard deviation of an observation about its value."""
        return float(np.exp(self.parameters[-1] / 2))

    def sharpen(self, factor: float) -> None:
        """Weights of the real parameters times `factor`, given the same observations."""
        self.parameters = self.parameters.copy()
        self.parameters[:-2][~self.categorical] += math.log(factor)
        self.condition(self._rows, self._values)

    def covariances(self, rows: Array, others: Array) -> Array:
        """Between the noiseless values at rows [N, D] and at others [M, D]: [N, M]."""
        kernel, _ = self._kernel(self.parameters, distances(rows, others, self.categorical))
        return float(np.exp(self.parameters[-2])) * kernel

    def predict(self, rows: Array) -> tuple[Array, Array]:
        """Mean and standard deviation [N] of the noiseless value at rows [N, D]."""
        cross = self.covariances(rows, self._rows)
        solved = linalg.solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        variance = np.exp(self.parameters[-2]) - np.einsum("nm,nm->m", solved, solved)
        return cross @ self._alpha, np.sqrt(np.maximum(variance, 1e-12))


_BLOCK = 2_000_000
"""Distances that are looked at in one go."""


class Everywhere:
    """What a process says at always the same rows [N, D], brought up to date with each observation: O(N·M) for one
    more of M, where `GaussianProcess.predict` takes O(N·M²).

    With L the Cholesky factor of the observations' covariance and K that between them and the rows, V = L⁻¹K grows by
    one row for an observation, while the parameters stay; mean = Vᵀ(L⁻¹y) and variance = scale - Σ V².
    """

    def __init__(self, rows: Array) -> None:
        self._rows = rows
        self._named, self._levels = _one_hot(rows)
        self._parameters: Array = np.empty(0)
        self._seen: Array = np.empty((0, rows.shape[1]))
        self._solved: Array = np.empty((0, len(rows)))

    def predict(self, process: GaussianProcess, first: int) -> tuple[Array, Array]:
        """Mean and standard deviation [N] as `GaussianProcess.predict`. The first observations are taken in one go, the
        others one by one.
        """
        seen, factor = process._rows, process._factor
        same = 0
        if np.array_equal(self._parameters, process.parameters):
            count = min(len(self._seen), len(seen))
            unlike = ~((self._seen[:count] == seen[:count]) | (np.isnan(self._seen[:count]) & np.isnan(seen[:count])))
            places = np.flatnonzero(unlike.any(axis=1))
            same = int(places[0]) if len(places) else count
        first = min(first, len(seen))
        done = same if same >= first else 0
        if len(self._solved) < len(seen):
            grown = np.empty((max(len(seen), 2 * len(self._solved)), len(self._rows)))
            grown[:done] = self._solved[:done]
            self._solved = grown
        if done == 0:
            cross = self._cross(process, seen[:first])
            self._solved[:first] = linalg.solve_triangular(factor[:first, :first], cross, lower=True,
                                                           check_finite=False)  # fmt: skip
            done = first
        for place in range(done, len(seen)):
            row = self._cross(process, seen[place : place + 1])[0]
            row -= factor[place, :place] @ self._solved[:place]
            self._solved[place] = row / factor[place, place]
        self._parameters, self._seen = process.parameters.copy(), seen.copy()
        solved = self._solved[: len(seen)]
        weights = linalg.solve_triangular(factor, process._values, lower=True, check_finite=False)
        variance = np.exp(process.parameters[-2]) - np.einsum("mn,mn->n", solved, solved)
        return weights @ solved, np.sqrt(np.maximum(variance, 1e-12))

    def _cross(self, process: GaussianProcess, others: Array) -> Array:
        """Covariances of `others` [M, D] and the rows: [M, N]."""
        if not process.categorical.all() or not len(self._named):
            size = max(1, _BLOCK // (len(others) * self._rows.shape[1]))
            parts = [process.covariances(self._rows[i : i + size], others) for i in range(0, len(self._rows), size)]
            return np.ascontiguousarray(np.concatenate(parts).T)
        weights = np.exp(process.parameters[:-2])
        x = np.where(np.isnan(others), -1.0, others)
        alike = np.concatenate(
            [(x[:, d, None] == levels[None]) * weights[d] for d, levels in enumerate(self._levels)], axis=1
        )
        logs = alike @ self._named  # Σ θ_d [x_d = y_d]
        logs += process.parameters[-2] - weights.sum()
        return np.exp(logs, out=logs)


def _one_hot(rows: Array) -> tuple[Array, list[Array]]:
    """(which value each row has [S, N], the values of every column)."""
    x = np.where(np.isnan(rows), -1.0, rows)
    levels = [np.unique(x[:, d]) for d in range(x.shape[1])]
    if sum(map(len, levels)) > 1000:  # ranges of whole numbers, or choices among very many: their distances count
        return np.empty((0, len(rows))), levels
    return np.concatenate([x[None, :, d] == each[:, None] for d, each in enumerate(levels)]).astype(np.float64), levels
