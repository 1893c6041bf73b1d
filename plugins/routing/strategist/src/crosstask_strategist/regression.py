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

    w has a normal prior around 0 (ridge), whose weight is chosen by leaving whole tasks out. All settings of one task
    together count as one: what a task has of its own is the noise, not what its settings differ in.
    """

    strategies: tuple[str, ...]
    weights: Array
    covariance: Array
    without: tuple[tuple[Array, list[tuple[Array, dict[str, float]]]], ...]
    """For each task: w from all others, and its settings: (1, x) and the scores by strategy."""

    @classmethod
    def fitted(cls, trials: Sequence[Trial]) -> Contrasts | None:
        """From all settings of which at least two strategies are known; None where there is none."""
        rows = _Rows.of(trials)
        if rows is None:
            return None
        ridge = rows.chosen_ridge()
        prior = _prior(ridge, len(rows.names), rows.design.shape[1])
        inside = rows.design.T @ (rows.counts[:, None] * rows.design)
        inverse: Array = np.asarray(np.linalg.inv(inside + prior), np.float64)
        weights = inverse @ (rows.design.T @ (rows.counts * rows.values))
        left = rows.values - rows.design @ weights
        free = float(rows.counts.sum()) - len(rows.settings) - float(np.trace(inverse @ inside))
        variance = (float(rows.counts @ left**2) + 1e-6) / max(1.0, free)
        without = tuple((found, rows.settings[name]) for name, found in rows.left_out(ridge).items())
        return cls(rows.names, weights, variance * inverse, without)

    def difference(self, one: str, two: str, features: Features) -> tuple[float, float]:
        """(how much more strategy `one` is expected to score than `two` on such tasks, the standard deviation of that
        expectation).
        """
        row = self._row(one, two, np.array([1.0, *features]))
        return float(row @ self.weights), math.sqrt(max(0.0, float(row @ self.covariance @ row)))

    def spread(self, one: str, two: str) -> tuple[float, int] | None:
        """(how far from what was expected of it a new task's difference lies, as a standard deviation, tasks that this
        rests on), by leaving each task out; None with fewer than three.
        """
        errors = []
        for weights, settings in self.without:
            found = [
                scores[one] - scores[two] - float(self._row(one, two, x) @ weights)
                for x, scores in settings
                if one in scores and two in scores
            ]
            if found:
                errors.append(sum(found) / len(found))
        return (math.sqrt(sum(e * e for e in errors) / len(errors)), len(errors)) if len(errors) > 2 else None

    def _row(self, one: str, two: str, x: Array) -> Array:
        row = np.zeros(len(self.weights))
        for name, sign in ((one, 1.0), (two, -1.0)):
            place = self.strategies.index(name)
            row[place * len(x) : (place + 1) * len(x)] += sign * x
        return row


@attrs.frozen(eq=False)
class _Rows:
    """What is regressed: design [N, S (1 + d)], values [N] and weights [N], the task of each row; settings by task."""

    names: tuple[str, ...]
    design: Array
    values: Array
    counts: Array
    tasks: tuple[str, ...]
    settings: dict[str, list[tuple[Array, dict[str, float]]]]

    @classmethod
    def of(cls, trials: Sequence[Trial]) -> _Rows | None:
        """None where no setting has two strategies."""
        found: dict[Any, dict[str, list[Trial]]] = defaultdict(lambda: defaultdict(list))
        for trial in trials:
            found[trial.setting][trial.strategy].append(trial)
        settings: dict[str, list[tuple[Array, dict[str, float]]]] = defaultdict(list)
        for by in found.values():
            if len(by) > 1:
                first = next(iter(by.values()))[0]
                scores = {name: float(np.mean([trial.score for trial in own])) for name, own in by.items()}
                settings[first.place[0]].append((np.array([1.0, *first.features]), scores))
        if not settings:
            return None
        names = tuple(sorted({name for own in settings.values() for _, scores in own for name in scores}))
        design, values, counts, tasks = [], [], list[float](), list[str]()
        for task, own in settings.items():
            for x, scores in own:
                each = np.zeros((len(scores), len(names), len(x)))
                for row, name in enumerate(scores):
                    each[row, names.index(name)] = x
                found_scores = np.array(list(scores.values()))
                design.append((each - each.mean(axis=0)).reshape(len(scores), -1))
                values.append(found_scores - found_scores.mean())
                counts += [1.0 / len(own)] * len(scores)
                tasks += [task] * len(scores)
        return cls(
            names, np.concatenate(design), np.concatenate(values), np.array(counts), tuple(tasks), dict(settings)
        )

    def left_out(self, ridge: float) -> dict[str, Array]:
        """By task: w from all others."""
        prior = _prior(ridge, len(self.names), self.design.shape[1])
        whole = self.design.T @ (self.counts[:, None] * self.design)
        crossed = self.design.T @ (self.counts * self.values)
        found, of = {}, np.array(self.tasks)
        for name in self.settings:
            own = of == name
            weighed = self.counts[own][:, None] * self.design[own]
            gram, vector = whole - self.design[own].T @ weighed, crossed - weighed.T @ self.values[own]
            found[name] = np.linalg.solve(gram + prior, vector)
        return found

    def chosen_ridge(self) -> float:
        """The prior weight of the least squared error on tasks that were left out, each in turn."""
        if len(self.settings) < 3:
            return RIDGES[-1]
        of, errors = np.array(self.tasks), []
        for ridge in RIDGES:
            error = 0.0
            for name, weights in self.left_out(ridge).items():
                own = of == name
                error += float(self.counts[own] @ (self.values[own] - self.design[own] @ weights) ** 2)
            errors.append(error)
        return RIDGES[int(np.argmin(errors))]


def _prior(ridge: float, strategies: int, columns: int) -> Array:
    """Weight of the prior: `ridge` for slopes, a hundredth for offsets."""
    diagonal = np.full(columns, ridge)
    diagonal[:: columns // strategies] = ridge / 100
    return np.diag(diagonal)


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
