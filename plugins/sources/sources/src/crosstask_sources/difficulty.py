"""How hard a task is, measured cheaply: what sources put into a descriptor as its complexity."""

from __future__ import annotations

from collections.abc import Iterator
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
    labels = np.asarray(train[1])
    counts = np.bincount(labels, minlength=classes)
    sums: NDArray[Any] = np.zeros(())
    for rows, inputs in _pieces(train[0]):
        sums = sums if sums.ndim else np.zeros((classes, inputs.shape[1]))
        np.add.at(sums, labels[rows], inputs)
    seen = counts > 0
    means = sums[seen] / counts[seen, None]
    truth = np.asarray(validation[1])
    guesses = np.empty_like(truth)
    for rows, inputs in _pieces(validation[0]):
        # |x - m|² without |x|², which is the same for every class
        guesses[rows] = np.flatnonzero(seen)[((means**2).sum(axis=1) - 2 * inputs @ means.T).argmin(axis=1)]
    guessing = 1 - np.bincount(truth).max() / len(truth)
    return round(float(min(1.0, (guesses != truth).mean() / guessing)), 4) if guessing > 0 else 1.0


_CELLS = 1 << 19  # numbers that are float64 at a time


def _pieces(inputs: ArrayLike) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Some rows at a time, flat and in double precision: large data are never copied whole."""
    whole = np.asarray(inputs)
    many = max(1, _CELLS // max(1, whole[:1].size))
    for start in range(0, len(whole), many):
        some = whole[start : start + many]
        yield slice(start, start + len(some)), some.reshape(len(some), -1).astype(np.float64)
