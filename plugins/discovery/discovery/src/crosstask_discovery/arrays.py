"""What every estimator does first: tensors or arrays into checked float64 matrices of a harmless scale.

In float64, and in the smaller of the two spaces (samples or features), an estimate does not depend on the scale of the
features, on the order of the samples or on the names of the labels.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosstask.errors import DataError

Matrix = NDArray[np.float64]
"""[N, D], in double precision."""
Labels = NDArray[np.int64]


class View:
    """Features [N, D] as estimators look at them: what several of them need of the same features is computed once.

    DataError as in `matrix`.
    """

    def __init__(self, features: Any) -> None:
        self.rows = scaled(matrix(features))

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def centred(self) -> Matrix:
        """`centred` of the scaled features."""
        return centred(self.rows)

    @functools.cached_property
    def spectrum(self) -> tuple[Matrix, Matrix]:
        """`left_spectrum` of the centred ones."""
        return left_spectrum(self.centred)

    @functools.cached_property
    def kernel(self) -> Matrix:
        """[N, N]: the inner products of the centred ones."""
        made: Matrix = self.centred @ self.centred.T
        return made


def view(features: Any) -> View:
    """A view of features, or the one that was given."""
    return features if isinstance(features, View) else View(features)


def matrix(values: Any, what: str = "features") -> Matrix:
    """[N, D] in float64; whatever comes after the first axis is flattened. DataError for no rows or values that are not
    finite.
    """
    made = _array(values).astype(np.float64)
    if made.ndim == 0 or len(made) == 0:
        raise DataError(f"{what} must have one row per sample, got shape {made.shape}")
    made = made.reshape(len(made), -1)
    if not np.isfinite(made).all():
        raise DataError(f"{what} hold NaN or infinite values")
    return made


def features_and_labels(features: Any, labels: Any) -> tuple[Matrix, Labels]:
    """Features [N, D] divided by their largest magnitude, and labels [N] renumbered 0, 1, … without gaps.

    DataError if the lengths differ or the labels are no integers.
    """
    seen = view(features)
    return seen.rows, class_numbers(labels, len(seen))


def class_numbers(labels: Any, count: int) -> Labels:
    """Labels [N] renumbered 0, 1, … without gaps; DataError if there are not `count`, or they are no integers."""
    given = _array(labels)
    if given.shape != (count,):
        raise DataError(f"{count} samples need labels of shape ({count},), got {given.shape}")
    if given.dtype.kind == "f" and not (given == given.round()).all():
        raise DataError("labels must be integers")
    numbered: Labels = np.unique(given, return_inverse=True)[1].astype(np.int64)
    return numbered


def targets(labels: Any, count: int) -> tuple[Matrix, bool]:
    """(targets [N, K], whether they are classes). Integer labels [N] become one column per class that occurs; floating
    values [N] or [N, K] are taken as they are, scaled: the targets of a regression.
    """
    given = _array(labels)
    if given.dtype.kind == "f":
        values = scaled(matrix(given, "targets"))
        if len(values) != count:
            raise DataError(f"{count} samples need {count} targets, got {len(values)}")
        return values, False
    return one_hot(class_numbers(given, count)), True


def one_hot(labels: Labels) -> Matrix:
    """[N, C] of 0 and 1."""
    return np.eye(int(labels.max()) + 1)[labels]


def scaled(values: Matrix) -> Matrix:
    """Divided by the largest magnitude, so that squares neither overflow nor vanish; zeros stay zeros."""
    largest = np.abs(values).max(initial=0.0)
    return values / largest if largest > 0 else values


def centred(values: Matrix) -> Matrix:
    """Less the mean of each column; a column that varies by rounding only becomes zero."""
    mean = values.mean(axis=0)
    moved: Matrix = values - mean
    dead = np.abs(moved).max(axis=0) <= 8 * np.finfo(np.float64).eps * np.abs(mean)
    moved[:, dead] = 0.0
    return moved


def left_spectrum(rows: Matrix) -> tuple[Matrix, Matrix]:
    """(left singular vectors [N, r], squared singular values [r]) of a matrix of rank r."""
    if rows.shape[1] > rows.shape[0]:
        squares, left = np.linalg.eigh(rows @ rows.T)
    else:
        left, singular, _ = np.linalg.svd(rows, full_matrices=False)
        squares = singular**2
    kept = squares > max(rows.shape) * np.finfo(np.float64).eps * squares.max(initial=0.0)
    return left[:, kept], squares[kept]


def _array(values: Any) -> NDArray[Any]:
    if hasattr(values, "detach"):  # a torch tensor, wherever it lives
        values = values.detach().cpu()
        if values.is_floating_point():
            values = values.double()  # numpy knows no bfloat16
        return np.asarray(values.numpy())
    return np.asarray(values)
