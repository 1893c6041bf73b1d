"""How hard a task is, measured cheaply: what sources put into a descriptor as its complexity."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def nearest_mean_difficulty(
    train: tuple[ArrayLike, ArrayLike], validation: tuple[ArrayLike, ArrayLike], classes: int
) -> float:
    """Error of the nearest class mean on the validation data over the error of always naming the commonest class.

    Each split is (inputs [N, …], labels [N]). 0 is easy; 1 is no better than guessing, which is also the answer where
    guessing makes no error. Classes without training samples have no mean and are never guessed.
    """
    inputs, labels = _flat(train[0]), np.asarray(train[1])
    counts = np.bincount(labels, minlength=classes)
    sums = np.zeros((classes, inputs.shape[1]))
    np.add.at(sums, labels, inputs)
    seen = counts > 0
    means = sums[seen] / counts[seen, None]
    held, truth = _flat(validation[0]), np.asarray(validation[1])
    # |x - m|² without |x|², which is the same for every class
    guesses = np.flatnonzero(seen)[((means**2).sum(axis=1) - 2 * held @ means.T).argmin(axis=1)]
    guessing = 1 - np.bincount(truth).max() / len(truth)
    return round(float(min(1.0, (guesses != truth).mean() / guessing)), 4) if guessing > 0 else 1.0


def _flat(inputs: ArrayLike) -> NDArray[Any]:
    rows = np.asarray(inputs, dtype=np.float64)
    return rows.reshape(len(rows), -1)
