"""The `bayesian` search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import numpy as np
from scipy import special

from crosstask.options import component, option
from crosstask_nas.gaussian_process import Array, GaussianProcess, ranks
from crosstask_search.contract import Search
from crosstask_search.records import Trial
from crosstask_search.space import Point, SearchSpace

_LISTED = 3000
"""Finite spaces up to this size are candidates as a whole."""


@component
class Bayesian(Search):
    """Bayesian optimisation with a Gaussian process: Hamming kernel over choices, Matérn-5/2 over ranges (see
    `GaussianProcess`).

    In a finite space it models the normal scores of the values' ranks, which no outlier and no scale can upset; where
    there are ranges of real numbers the values, with the worse half drawn together.

    A proposal is the candidate of largest expected improvement over the best posterior mean so far. Candidates: every
    untried point of a space that is small enough to be listed; else random ones and neighbours of the best trials, and
    for ranges a search around the best candidates in ever smaller steps. Trials that are still running count as if they
    had come to what the model expects (the kriging believer: Ginsbourger et al. 2010), failed ones as the worst.

    The first `initial` proposals are random. A proposal is a function of the trials and the seed alone.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"no_repeats"})

    initial: int = option(8, ge=1, help="random points before the model is asked")
    candidates: int = option(1500, ge=10, help="candidates in a space too large to be listed")
    explore: float = option(0.0, ge=0, help="improvement (in standard deviations of the values) not counted as one")
    _listed: tuple[SearchSpace, list[Point], list[Any], Array] | None = attrs.field(
        init=False, default=None, repr=False
    )
    _fitted: tuple[Any, Array] | None = attrs.field(init=False, default=None, repr=False)

    def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
        rng = np.random.default_rng(self.context.seed_for("bayesian", len(trials)))
        tried = {space.key(trial.point) for trial in trials}
        ended = [trial for trial in trials if trial.status != "running"]
        if len(trials) < self.initial or not any(trial.value is not None for trial in ended):
            return space.fresh(rng, tried)
        process, best = self._model(space, trials, ended)
        points, keys, rows = self._all(space)
        if points:
            untried = [i for i, key in enumerate(keys) if key not in tried]
            if not untried:
                return space.fresh(rng, tried)
            gains = self._improvement(process, rows[untried], best)
            return dict(points[untried[_first_best(gains, rng)]])
        codes = _Codes(space)
        rows = self._candidates(codes, space, ended, rng)
        gains = self._improvement(process, rows, best)
        if codes.real.any():
            rows, gains = self._refined(codes, process, rows, gains, best, rng)
        for place in np.argsort(-gains, kind="stable")[:200]:
            point = space.decode(rows[place])
            if space.key(point) not in tried and space.allows(point):
                return point
        return space.fresh(rng, tried)

    def _model(
        self, space: SearchSpace, trials: Sequence[Trial], ended: Sequence[Trial]
    ) -> tuple[GaussianProcess, float]:
        """The process given all trials, and its best mean among them."""
        scores = _by_rank if space.finite else _by_value
        process = GaussianProcess(np.array([bool(p.choices) for p in space.parameters.values()]))
        rows, values = space.encode([t.point for t in ended]), scores(ended)
        # Its parameters are fitted again whenever the number of trials has grown by a tenth (at least by three).
        first, due = self.initial, self.initial
        while due <= len(ended):
            first, due = due, due + max(3, due // 10)
        told = [(space.key(trial.point), trial.value) for trial in ended[:first]]
        if self._fitted is None or self._fitted[0] != told:
            process.fit(rows[:first], scores(ended[:first]))
            self._fitted = told, process.parameters
        process.parameters = self._fitted[1]
        process.condition(rows, values)
        best = float(process.predict(rows)[0].max())
        running = [t.point for t in trials if t.status == "running"]
        if running:
            more = space.encode(running)
            believed = process.predict(more)[0]
            process.condition(np.concatenate([rows, more]), np.concatenate([values, believed]))
            best = max(best, float(believed.max()))
        return process, best

    def _improvement(self, process: GaussianProcess, rows: Array, best: float) -> Array:
        """Logarithm of the expected improvement (the number itself is 0 in double precision far from the best)."""
        mean, deviation = process.predict(rows)
        z = (mean - best - self.explore) / deviation
        return np.log(deviation) + _log_ei(z)

    def _all(self, space: SearchSpace) -> tuple[list[Point], list[Any], Array]:
        """All points of a space that is small enough, with their keys and places."""
        if self._listed is None or self._listed[0] is not space:
            count = space.count()
            points = list(space.points()) if count is not None and count <= _LISTED else []
            self._listed = space, points, [space.key(point) for point in points], space.encode(points)
        return self._listed[1:]

    def _candidates(self, codes: _Codes, space: SearchSpace, ended: Sequence[Trial], rng: np.random.Generator) -> Array:
        """Half of them random, half neighbours of the five best trials."""
        anywhere = codes.snapped(rng.random((self.candidates // 2, len(space.names))))
        best = sorted((t for t in ended if t.value is not None), key=lambda t: -(t.value or 0.0))[:5]
        around = codes.snapped(codes.neighbours(space.encode([t.point for t in best]), self.candidates // 2, rng))
        return np.concatenate([anywhere, around])

    def _refined(
        self,
        codes: _Codes,
        process: GaussianProcess,
        rows: Array,
        gains: Array,
        best: float,
        rng: np.random.Generator,
    ) -> tuple[Array, Array]:
        """More candidates around the five best so far, in steps that shrink."""
        for step in (0.1, 0.03, 0.01, 0.003, 0.001):
            top = np.argsort(-gains, kind="stable")[:5]
            near = np.repeat(rows[top], 20, axis=0)
            near = codes.snapped(near + codes.real * rng.normal(0, step, near.shape))
            rows, gains = np.concatenate([rows, near]), np.concatenate([gains, self._improvement(process, near, best)])
        return rows, gains

    def search_begins(self, space: SearchSpace, task: Any, models: Any) -> None:
        self._listed = self._fitted = None


class _Codes:
    """Places in a space's unit cube, many at a time."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.real = np.array([p.size is None for p in space.parameters.values()])
        self.levels = []
        for parameter in space.parameters.values():
            size = parameter.size
            listed = size is not None and size <= _LISTED
            self.levels.append(np.array([parameter.place(v) for v in parameter.values()]) if listed else None)

    def snapped(self, rows: Array) -> Array:
        """Places [N, D] moved to the nearest that a value has; NaN where a parameter is not active."""
        made = np.clip(rows, 0.0, 1.0)
        for column, levels in enumerate(self.levels):
            if levels is not None:
                between = (levels[1:] + levels[:-1]) / 2
                made[:, column] = levels[np.searchsorted(between, made[:, column])]
        for column, parameter in enumerate(self.space.parameters.values()):
            for parent, values in parameter.when.items():
                place = made[:, self.space.names.index(parent)]
                allowed = [self.space.parameters[parent].place(value) for value in values]
                made[~np.isclose(place[:, None], allowed).any(axis=1), column] = np.nan
        return made

    def neighbours(self, rows: Array, count: int, rng: np.random.Generator) -> Array:
        """`count` places that differ from one of `rows` in one or two parameters: steps of real ones, else new ones."""
        drawn = rows[rng.integers(len(rows), size=count)]
        filled = np.where(np.isnan(drawn), rng.random(drawn.shape), drawn)
        chance = min(1.0, 1.5 / drawn.shape[1])
        change = rng.random(drawn.shape) < chance
        change[np.arange(count), rng.integers(drawn.shape[1], size=count)] = True
        steps = filled + rng.normal(0, 1, drawn.shape) * rng.choice([0.2, 0.05, 0.01], size=(count, 1))
        return np.where(change, np.where(self.real, steps, rng.random(drawn.shape)), filled)


def _by_rank(trials: Sequence[Trial]) -> Array:
    """Normal scores of the values; failed trials below the worst."""
    return ranks(np.array([-np.inf if trial.value is None else trial.value for trial in trials]))


def _by_value(trials: Sequence[Trial]) -> Array:
    """Values with the half below the median drawn together logarithmically, mean 0 and variance 1; failed ones worst.

    The upper half keeps its shape, which is what leads to a smooth optimum; how bad the bad ones are is of little use.
    """
    done = np.array([trial.value for trial in trials if trial.value is not None])
    values = np.array([done.min() if trial.value is None else trial.value for trial in trials])
    middle = float(np.median(values))
    unit = float(values.max() - middle) or float(middle - values.min()) or 1.0
    below = middle - np.log1p(np.maximum(middle - values, 0.0) / unit) * unit
    scores = np.where(values < middle, below, values)
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > 0 else np.zeros_like(scores)


def _first_best(gains: Array, rng: np.random.Generator) -> int:
    """The largest, ties broken at random."""
    top = np.flatnonzero(gains >= gains.max() - 1e-12)
    return int(top[rng.integers(len(top))])


def _log_ei(z: Array) -> Array:
    """log(φ(z) + z Φ(z)), stable far below 0 (Ament et al. 2023, eq. 9)."""
    density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    low = z < -1
    plain = np.log(np.maximum(np.exp(density) + z * special.ndtr(z), 1e-300))
    tail = np.where(low, z, -1.0)
    # φ(z) + z Φ(z) = φ(z) (1 - |z| Φ(z)/φ(z)), and Φ(z)/φ(z) = sqrt(π/2) erfcx(|z|/√2)
    ratio = -tail * np.sqrt(np.pi / 2) * special.erfcx(-tail / np.sqrt(2))
    far = np.where(ratio < 1 - 1e-9, np.log1p(-np.minimum(ratio, 1 - 1e-12)), -2 * np.log(-tail))
    return np.where(low, np.where(density > -1e10, density, -1e10) + far, plain)
