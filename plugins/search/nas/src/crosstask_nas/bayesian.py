"""The `bayesian` search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import attrs
import numpy as np
from numpy.typing import NDArray
from scipy import special

from crosstask.options import component, option
from crosstask_nas.gaussian_process import Array, Everywhere, GaussianProcess, ranks
from crosstask_search.contract import Search
from crosstask_search.records import Trial
from crosstask_search.space import Point, SearchSpace

_LISTED = 20_000
"""Finite spaces up to this size are candidates as a whole."""
_LEVELS = 3000
"""Values of a parameter that are looked up, at most."""
_KNOWN = 0.5
"""A place of which the model's standard deviation is less than this share of the noise's is exploited too much:"""
_SHARPER = 4.0
"""the weights of the parameters grow by this factor,"""
_SHARPENED = 4
"""so often at most, until another place looks best."""
_LEAST_CHANCE = 0.01
"""No point is given up for good: failures may be mended, or be chance."""


@component
class Bayesian(Search):
    """Bayesian optimisation with a Gaussian process: Hamming kernel over choices, Matérn-5/2 over ranges (see
    `GaussianProcess`).

    In a finite space it models the normal scores of the values' ranks, which no outlier and no scale can upset; where
    there are ranges of real numbers the values, with the worse half drawn together.

    A proposal is the candidate of largest `acquisition`: the expected improvement over the best posterior mean so far,
    the probability of one, or the upper confidence bound. Candidates: every untried point of a space that is small
    enough to be listed; else random ones and neighbours of the best trials, and for ranges a search around the best
    candidates in ever smaller steps. Trials that are still running count as if they had come to what the model expects
    (the kriging believer: Ginsbourger et al. 2010).

    A model that is too smooth can ask for ever closer neighbours of the best trial. When it claims to know the value
    of its own proposal, the kernel is made to vary faster and asked again (`expected-improvement-plus` of MATLAB's
    bayesopt, after Bull 2011).

    Failed trials say nothing of the values. A second process learns where trials succeed, and what is expected of a
    candidate is weighed with the probability that it does (Gelbart et al. 2014, eq. 6): a region where all fail is
    left, and failures by chance do not bend the model of the values.

    The first `initial` proposals are random, and all until a trial has succeeded. A proposal is a function of the
    trials and the seed alone.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"no_repeats"})
    results_version: ClassVar[int] = 3  # larger spaces are looked at as a whole

    initial: int = option(8, ge=1, help="random points before the model is asked")
    candidates: int = option(1500, ge=10, help="candidates in a space too large to be listed")
    acquisition: str = option(
        "ei", choices=("ei", "pi", "ucb"), help="expected improvement, its probability, or upper confidence bound"
    )
    explore: float = option(0.0, ge=0, help="improvement (in standard deviations of the values) not counted as one")
    deviations: float = option(2.0, ge=0, help="ucb: standard deviations that the bound is above the mean")
    _listed: _Listed | None = attrs.field(init=False, default=None, repr=False)
    _fitted: dict[str, tuple[Any, Array, int]] = attrs.field(init=False, factory=dict, repr=False)

    @property
    def blind(self) -> float:
        return self.initial

    def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
        rng = np.random.default_rng(self.context.seed_for("bayesian", len(trials)))
        tried = {space.key(trial.point) for trial in trials}
        done = [trial for trial in trials if trial.value is not None]
        if len(trials) < self.initial or not done:
            return space.fresh(rng, tried)
        model = self._model(space, trials, done)
        listed = self._all(space)
        if listed.points:
            left = listed.left(tried)
            if not left.any():
                return space.fresh(rng, tried)
            gains = np.where(left, model.gains_of(listed), -np.inf)
            return dict(listed.points[_first_best(gains, rng)])
        codes = _Codes(space)
        candidates = self._candidates(codes, space, done, rng)
        for _ in range(_SHARPENED + 1):
            rows, gains = candidates, model.gains(candidates)
            if not codes.real.any():
                break
            rows, gains = _refined(codes, model, rows, gains, rng)
            if not model.exhausted(rows[[int(gains.argmax())]]):
                break
            model.sharpen()
        for place in np.argsort(-gains, kind="stable")[:200]:
            point = space.decode(rows[place])
            if space.key(point) not in tried and space.allows(point):
                return point
        return space.fresh(rng, tried)

    def _model(self, space: SearchSpace, trials: Sequence[Trial], done: Sequence[Trial]) -> _Model:
        """What is expected of any point, given all trials."""
        scores = _by_rank if space.finite else _by_value
        rows, told = space.encode([t.point for t in done]), np.array([t.value for t in done], dtype=np.float64)
        values = scores(told)
        process = self._process("values", space, rows, told, scores)
        process.condition(rows, values)
        best = float(process.predict(rows)[0].max())
        running = [t.point for t in trials if t.status == "running"]
        if running:
            more = space.encode(running)
            believed = process.predict(more)[0]
            process.condition(np.concatenate([rows, more]), np.concatenate([values, believed]))
            best = max(best, float(believed.max()))
        ended = [t for t in trials if t.status != "running"]
        success, rate = None, 1.0
        if len(done) < len(ended):
            labels = np.array([-1.0 if t.value is None else 1.0 for t in ended])
            places, rate = space.encode([t.point for t in ended]), float(labels.mean())
            success = self._process("success", space, places, labels, _centred)
            success.condition(places, _centred(labels))
        return _Model(self, process, best, float(values.min()), success, rate)

    def _process(
        self, name: str, space: SearchSpace, rows: Array, told: Array, scores: Callable[[Array], Array]
    ) -> GaussianProcess:
        """A process with parameters fitted to its observations, again whenever their number has grown by a tenth (at
        least by three).
        """
        process = GaussianProcess(np.array([bool(p.choices) for p in space.parameters.values()]))
        first, due = self.initial, self.initial
        while due <= len(told):
            first, due = due, due + max(3, due // 10)
        rows, told = rows[:first], told[:first]
        seen = rows.tobytes(), told.tobytes()
        if name not in self._fitted or self._fitted[name][0] != seen:
            process.fit(rows, scores(told))
            self._fitted[name] = seen, process.parameters, first
        process.parameters = self._fitted[name][1]
        return process

    def _all(self, space: SearchSpace) -> _Listed:
        """All points of a space that is small enough."""
        if self._listed is None or self._listed.space is not space:
            count = space.count()
            points = list(space.points()) if count is not None and count <= _LISTED else []
            self._listed = _Listed(space, points)
        return self._listed

    def _candidates(self, codes: _Codes, space: SearchSpace, done: Sequence[Trial], rng: np.random.Generator) -> Array:
        """Half of them random, half neighbours of the five best trials."""
        anywhere = codes.snapped(rng.random((self.candidates // 2, len(space.names))))
        best = sorted(done, key=lambda t: -(t.value or 0.0))[:5]
        around = codes.snapped(codes.neighbours(space.encode([t.point for t in best]), self.candidates // 2, rng))
        return np.concatenate([anywhere, around])

    def search_begins(self, space: SearchSpace, task: Any, models: Any) -> None:
        self._listed = None
        self._fitted = {}


@attrs.frozen
class _Model:
    """What a search believes: of the values, and of where trials succeed."""

    search: Bayesian
    values: GaussianProcess
    best: float
    """Posterior mean of the best trial."""
    worst: float
    success: GaussianProcess | None
    rate: float
    """Mean of the labels, 1 and -1, of success."""

    def gains(self, rows: Array) -> Array:
        """How promising rows [N, D] of places are."""
        return self._gains(*self.values.predict(rows), self.chances(rows))

    def gains_of(self, listed: _Listed) -> Array:
        """The same of all points of a space."""
        mean, deviation = listed.predict("values", self.values, self.search)
        if self.success is None:
            return self._gains(mean, deviation, np.ones(1))
        return self._gains(mean, deviation, self._chance(listed.predict("success", self.success, self.search)[0]))

    def _gains(self, mean: Array, deviation: Array, chance: Array) -> Array:
        """Improvements as logarithms: the numbers themselves are 0 in double precision far from the best."""
        if self.search.acquisition == "ucb":
            return self.worst + chance * (mean + self.search.deviations * deviation - self.worst)
        z = (mean - self.best - self.search.explore) / deviation
        if self.search.acquisition == "pi":
            return np.asarray(special.log_ndtr(z) + np.log(chance), dtype=np.float64)
        return np.log(deviation) + _log_ei(z) + np.log(chance)

    def exhausted(self, rows: Array) -> bool:
        """Whether the model claims to know the value at a place [1, D] better than any evaluation could tell it."""
        return bool(self.values.predict(rows)[1][0] < _KNOWN * self.values.noise)

    def sharpen(self) -> None:
        """Let the values vary faster between the trials."""
        self.values.sharpen(_SHARPER)

    def chances(self, rows: Array) -> Array:
        """Probability of success at rows [N, D], by least squares on the labels 1 and -1."""
        if self.success is None:
            return np.ones(len(rows))
        return self._chance(self.success.predict(rows)[0])

    def _chance(self, mean: Array) -> Array:
        return np.clip((1 + self.rate + mean) / 2, _LEAST_CHANCE, 1.0)


class _Listed:
    """All points of a finite space, and what the processes say of them."""

    def __init__(self, space: SearchSpace, points: list[Point]) -> None:
        self.space, self.points = space, points
        self._place = {space.key(point): place for place, point in enumerate(points)}
        self._rows = space.encode(points)
        self._known: dict[str, Everywhere] = {}

    def left(self, tried: Iterable[Any]) -> NDArray[np.bool_]:
        """Which points have not been tried."""
        found = np.ones(len(self.points), dtype=bool)
        found[[self._place[key] for key in tried if key in self._place]] = False
        return found

    def predict(self, name: str, process: GaussianProcess, search: Bayesian) -> tuple[Array, Array]:
        """Mean and standard deviation at every point."""
        known = self._known.setdefault(name, Everywhere(self._rows))
        return known.predict(process, search._fitted[name][2])


def _refined(codes: _Codes, model: _Model, rows: Array, gains: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """More candidates around the five best so far, in steps that shrink."""
    for step in (0.1, 0.03, 0.01, 0.003, 0.001):
        top = np.argsort(-gains, kind="stable")[:5]
        near = np.repeat(rows[top], 20, axis=0)
        near = codes.snapped(near + codes.real * rng.normal(0, step, near.shape))
        rows, gains = np.concatenate([rows, near]), np.concatenate([gains, model.gains(near)])
    return rows, gains


class _Codes:
    """Places in a space's unit cube, many at a time."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.real = np.array([p.size is None for p in space.parameters.values()])
        self.levels = []
        for parameter in space.parameters.values():
            size = parameter.size
            listed = size is not None and size <= _LEVELS
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


def _by_rank(values: Array) -> Array:
    """Normal scores of the values."""
    return ranks(values)


def _by_value(values: Array) -> Array:
    """Values with the half below the median drawn together logarithmically, mean 0 and variance 1.

    The upper half keeps its shape, which is what leads to a smooth optimum; how bad the bad ones are is of little use.
    """
    values = values / (float(np.abs(values).max()) or 1.0)  # so that no difference overflows
    middle = float(np.median(values))
    unit = float(values.max() - middle) or float(middle - values.min()) or 1.0
    below = middle - np.log1p(np.maximum(middle - values, 0.0) / unit) * unit
    scores = np.where(values < middle, below, values)
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > 0 else np.zeros_like(scores)


def _centred(values: Array) -> Array:
    return values - float(values.mean())


def _first_best(gains: Array, rng: np.random.Generator) -> int:
    """The largest, ties broken at random. What differs by rounding only is a tie: points that are alike to the model
    must stay so, however their gains were come by.
    """
    best = float(gains.max())
    top = np.flatnonzero(gains >= best - 1e-9 * max(1.0, abs(best)))
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
