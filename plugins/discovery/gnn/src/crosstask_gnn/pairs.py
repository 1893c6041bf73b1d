"""What is known of the pairs of n tasks, as arrays. Row: source, column: target."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from crosstask.errors import DataError

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


@attrs.frozen(eq=False)
class Pairs:
    """`known` [n, n]: measured coefficients, NaN where none; `error` [n, n]: their standard errors, NaN if unstated.

    `estimates` [k, n, n]: raw values of k estimators, larger is better, NaN where there is none; comparable only among
    the sources of one target. `nodes` [n, d]: features of the tasks. The diagonals count for nothing.
    """

    known: Array
    error: Array
    estimates: Array
    nodes: Array

    @classmethod
    def of(
        cls,
        known: npt.ArrayLike,
        error: npt.ArrayLike | None = None,
        estimates: npt.ArrayLike | None = None,
        nodes: npt.ArrayLike | None = None,
    ) -> Pairs:
        """Checked, the diagonals emptied. DataError for shapes that do not fit together or infinite values."""
        values = np.array(known, dtype=np.float64)
        n = len(values)
        if values.shape != (n, n):
            raise DataError(f"known coefficients must be a square matrix, got shape {values.shape}")
        errors = np.full((n, n), np.nan) if error is None else np.array(error, dtype=np.float64)
        guesses = np.empty((0, n, n)) if estimates is None else np.array(estimates, dtype=np.float64)
        features = np.empty((n, 0)) if nodes is None else np.array(nodes, dtype=np.float64)
        for name, array, wanted in (
            ("errors", errors, (n, n)),
            ("estimates", guesses, (len(guesses), n, n)),
            ("nodes", features, (n, *features.shape[1:])),
        ):
            if array.shape != wanted or (name == "nodes" and array.ndim != 2):
                raise DataError(f"{name} have shape {array.shape}, which does not fit {n} tasks")
        for name, array in (("known", values), ("errors", errors), ("estimates", guesses), ("nodes", features)):
            if np.isinf(array).any() or (name == "nodes" and np.isnan(array).any()):
                raise DataError(f"{name} hold values that are not finite")
        diagonal = np.arange(n)
        values[diagonal, diagonal] = np.nan
        guesses[:, diagonal, diagonal] = np.nan
        return cls(values, errors, guesses, features)

    @property
    def count(self) -> int:
        """Number of tasks."""
        return len(self.known)

    @property
    def measured(self) -> Mask:
        """[n, n], true where a coefficient is known."""
        return ~np.isnan(self.known)

    def without(self, hidden: Mask) -> Pairs:
        """The same with the measurements at `hidden` taken away."""
        return attrs.evolve(self, known=np.where(hidden, np.nan, self.known))


def standardised(values: Array, axis: int) -> Array:
    """z-scores along an axis; 0 where a value is NaN, or all along the axis are equal."""
    seen = ~np.isnan(values)
    count = np.maximum(seen.sum(axis, keepdims=True), 1)
    mean = np.where(seen, values, 0).sum(axis, keepdims=True) / count
    centred = np.where(seen, values - mean, 0.0)
    spread = np.sqrt((centred**2).sum(axis, keepdims=True) / count)
    scale = np.abs(mean) + np.where(seen, np.abs(values), 0).max(axis, keepdims=True, initial=0)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-12 * np.maximum(scale, 1e-300))


def within_targets(estimates: Array) -> Array:
    """[k, n, n] z-scores of each estimator among the sources of each target."""
    return standardised(estimates, axis=-2)


def mean_score(estimates: Array) -> Array:
    """[n, n] mean of the estimators' z-scores inside each target; 0 where there is none."""
    if not len(estimates):
        return np.zeros(estimates.shape[1:])
    seen = ~np.isnan(estimates)
    total: Array = within_targets(estimates).sum(0) / np.maximum(seen.sum(0), 1)
    return total
