"""Which strategy is better for which kind of task: a Bayesian linear regression of differences."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from crosstask.learning.metrics import student_quantile
from crosstask.records import Interval
from crosstask_strategist.history import Features, Trial

Array = NDArray[np.float64]
RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)
"""Prior weights of the slopes that are tried; the offsets have a hundredth of it."""


@attrs.frozen(eq=False)
class Contrasts:
    """Score of strategy s in setting g: a_g + w_s·(1, x_g) + noise. Within a setting a_g falls out of differences from
    its mean, so that settings of which other strategies are known compare, too.

    w has a normal prior around 0 (ridge), whose weight is chosen by leaving whole tasks out. Settings of one place are
    repeats: together they count as one. What is said of a difference has its posterior's deviation, with the noise
    estimated from what is left.
    """

    strategies: tuple[str, ...]
    weights: Array
    covariance: Array
    freedom: int

    @classmethod
    def fitted(cls, trials: Sequence[Trial]) -> Contrasts | None:
        """From all settings of which at least two strategies are known; None where there is none."""
        rows = _rows(trials)
        if rows is None:
            return None
        names, design, values, counts, tasks = rows
        ridge = _chosen_ridge(design, values, counts, tasks, len(names))
        prior = _prior(ridge, len(names), design.shape[1])
        gram = design.T @ (counts[:, None] * design) + prior
        inverse = np.linalg.inv(gram)
        weights = inverse @ (design.T @ (counts * values))
        left = values - design @ weights
        places = len({place for place, _ in tasks})
        noise = float(counts @ left**2) + 1e-6
        rows_that_count = float(counts.sum())
        used = float(np.trace(inverse @ (design.T @ (counts[:, None] * design))))
        variance = noise / max(1.0, rows_that_count - used)
        return cls(names, weights, variance * inverse, max(1, places - 1))

    def difference(self, one: str, two: str, features: Features) -> tuple[float, float]:
        """(how much more strategy `one` is expected to score than `two` on such a task, its standard deviation)."""
        x = np.array([1.0, *features])
        row = np.zeros(len(self.weights))
        for name, sign in ((one, 1.0), (two, -1.0)):
            place = self.strategies.index(name)
            row[place * len(x) : (place + 1) * len(x)] += sign * x
        return float(row @ self.weights), math.sqrt(max(0.0, float(row @ self.covariance @ row)))


def _rows(trials: Sequence[Trial]) -> Any:
    """(strategies, design [N, S (1 + d)], values [N], weights [N], (place, task) of each row)."""
    settings: dict[Any, dict[str, list[Trial]]] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        settings[trial.setting][trial.strategy].append(trial)
    settings = {at: by for at, by in settings.items() if len(by) > 1}
    names = tuple(sorted({name for by in settings.values() for name in by}))
    if not names:
        return None
    repeats: dict[Any, int] = defaultdict(int)
    for by in settings.values():
        repeats[next(iter(by.values()))[0].place] += 1
    design, values, counts, tasks = [], [], [], []
    for by in settings.values():
        first = next(iter(by.values()))[0]
        x = np.array([1.0, *first.features])
        each = np.zeros((len(by), len(names), len(x)))
        for row, name in enumerate(by):
            each[row, names.index(name)] = x
        scores = np.array([np.mean([trial.score for trial in found]) for found in by.values()])
        design.append((each - each.mean(axis=0)).reshape(len(by), -1))
        values.append(scores - scores.mean())
        counts += [1.0 / repeats[first.place]] * len(by)
        tasks += [(first.place, first.place[0])] * len(by)
    return names, np.concatenate(design), np.concatenate(values), np.array(counts), tasks


def _prior(ridge: float, strategies: int, columns: int) -> Array:
    """Weight of the prior: `ridge` for slopes, a hundredth for offsets."""
    diagonal = np.full(columns, ridge)
    diagonal[:: columns // strategies] = ridge / 100
    return np.diag(diagonal)


def _chosen_ridge(design: Array, values: Array, counts: Array, tasks: list[Any], strategies: int) -> float:
    """The prior weight of the least squared error on tasks that were left out, each in turn."""
    names = list(dict.fromkeys(task for _, task in tasks))
    if len(names) < 3:
        return 10.0
    of = np.array([names.index(task) for _, task in tasks])
    whole, crossed = design.T @ (counts[:, None] * design), design.T @ (counts * values)
    parts = []
    for number in range(len(names)):
        own = of == number
        weighed = counts[own][:, None] * design[own]
        parts.append((own, whole - design[own].T @ weighed, crossed - weighed.T @ values[own]))
    best, least = RIDGES[0], math.inf
    for ridge in RIDGES:
        prior, error = _prior(ridge, strategies, design.shape[1]), 0.0
        for own, gram, vector in parts:
            left = values[own] - design[own] @ np.linalg.solve(gram + prior, vector)
            error += float(counts[own] @ left**2)
        if error < least:
            best, least = ridge, error
    return best


def expected_score(trials: Sequence[Trial], features: Features, limits: tuple[float, float]) -> Interval:
    """The score to expect of a strategy on such a task, with an interval that holds one task's score with 95 %: ridge
    regression on the features around the mean, Student's t for a new value (Bishop 2006, section 3.3).
    """
    places: dict[Any, list[Trial]] = defaultdict(list)
    for trial in trials:
        places[trial.place].append(trial)
    x = np.array([[1.0, *found[0].features] for found in places.values()])
    y = np.array([np.mean([trial.score for trial in found]) for found in places.values()])
    middle, new = float(y.mean()), np.array([1.0, *features])
    inverse = np.linalg.inv(x.T @ x + np.eye(x.shape[1]))
    weights = inverse @ (x.T @ (y - middle))
    left = (y - middle) @ (y - middle) - weights @ (x.T @ (y - middle))
    variance = (max(0.0, float(left)) + 0.01) / len(y)  # as if one more had been .1 away
    half = student_quantile(max(1, len(y) - 1)) * math.sqrt(variance * (1 + float(new @ inverse @ new)))
    mean, (low, high) = middle + float(new @ weights), limits
    return Interval(mean=min(max(mean, low), high), low=min(max(mean - half, low), high),
                    high=max(min(mean + half, high), low))  # fmt: skip
