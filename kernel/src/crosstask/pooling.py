"""Several measurements of one quantity made one: weighted by their uncertainty, told apart where they disagree, older
ones weighted down where the quantity is seen to drift.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

NORMAL95 = 1.959963984540054
"""How many standard errors a two-sided 95 % interval of a normal reaches to each side."""
MOST_GROUPS = 2000
"""From so many quantities measured more than once drift is estimated, at most, evenly drawn from all."""


@attrs.frozen
class Pooled:
    """A mean with its standard error; how far the measurements disagree: the variance `between` them beyond their own
    errors, Cochran's `q` and its `p`; what each counted (`weights`, sum 1).
    """

    mean: float
    error: float
    between: float
    q: float
    p: float
    weights: tuple[float, ...]


def pool(
    values: Sequence[float], errors: Sequence[float], times: Sequence[float] | None = None, drift: float = 0.0
) -> Pooled:
    """Random-effects mean of independent measurements with standard errors > 0 (DerSimonian & Laird 1986, eq. 6 to 9);
    where they agree, `between` is 0 and this is the inverse-variance mean.

    With `drift`, a variance per unit of `times`, the quantity walks at random, and the mean is the best linear unbiased
    estimate of its value at the newest time: measurements of before share the way they have to go. The variance between
    is then the method of moments' with that covariance, of which the published one is the case without drift.
    """
    given, own = np.asarray(values, dtype=np.float64), np.asarray(errors, dtype=np.float64) ** 2
    if len(given) == 1:
        return Pooled(float(given[0]), float(errors[0]), 0.0, 0.0, 1.0, (1.0,))
    shared = np.diag(own)
    if drift > 0 and times is not None:
        when = np.asarray(times, dtype=np.float64)
        shared += drift * (when.max() - np.maximum.outer(when, when))
    weights, _, centre = _solved(given, shared)
    left = given - centre
    precision = np.linalg.inv(shared)
    q = float(left @ precision @ left)
    total = precision.sum(axis=0)
    trace = float(np.trace(precision) - total @ total / total.sum())
    between = max(0.0, (q - (len(given) - 1)) / trace)
    weights, variance, centre = _solved(given, shared + between * np.eye(len(given)))
    told = (float(centre), math.sqrt(variance), between, q, chi_square_tail(q, len(given) - 1))
    return Pooled(*told, tuple(map(float, weights)))


def _solved(values: Numbers, covariance: Numbers) -> tuple[Numbers, float, float]:
    """Weights, variance and value of the generalised least-squares mean."""
    raw = np.linalg.solve(covariance, np.ones(len(values)))
    weights = raw / raw.sum()
    return weights, float(1 / raw.sum()), float(weights @ values)


def chi_square_tail(value: float, freedom: int) -> float:
    """P(X >= value) for chi-square with so many degrees of freedom (Abramowitz & Stegun 26.4.4 and 26.4.5)."""
    half = max(value, 0.0) / 2
    if not half:
        return 1.0
    first, total = (0.5, math.erfc(math.sqrt(half))) if freedom % 2 else (0.0, 0.0)
    steps = (first + number for number in range(freedom // 2))
    # by logarithms: of many degrees of freedom each factor alone is beyond what a float holds
    return min(1.0, total + sum(math.exp(step * math.log(half) - half - math.lgamma(step + 1)) for step in steps))


def false_discoveries(chances: Sequence[float], share: float = 0.05) -> float:
    """The largest p that still counts, so that of those at or below it `share` are expected to be false (Benjamini &
    Hochberg 1995); below 0 where none does.
    """
    ranked = sorted(chances)
    return max((p for rank, p in enumerate(ranked, 1) if p <= share * rank / len(ranked)), default=-1.0)


# --- Drift


@attrs.frozen
class Drift:
    """How fast coefficients change: the variance of their random walk per day with its 95 % interval, estimated from
    `groups` of repeated measurements.
    """

    rate: float
    low: float
    high: float
    between: float
    groups: int

    @property
    def told(self) -> bool:
        """Whether it is told from none; only then do measurements age."""
        return self.low > 0


@attrs.frozen
class Repeats:
    """One quantity measured several times: values, standard errors and times (days), at least two of each."""

    values: Sequence[float]
    errors: Sequence[float]
    times: Sequence[float]


def estimate_drift(groups: Sequence[Repeats]) -> Drift | None:
    """Restricted maximum likelihood of the local-level model: y = level + walk(time) + what repeats differ in anyway +
    error, with the level of each group its own (Harvey 1989, ch. 2; its differences are what is looked at).

    The interval is the profile likelihood's, the variance of repeats at one time being free: drift that could as well
    be mere disagreement has an interval from 0. None where nothing was measured at two different times.
    """
    usable = [g for g in groups if len(g.values) > 1]
    if not any(max(g.times) > min(g.times) for g in usable):
        return None
    chosen = usable[:: -(-len(usable) // MOST_GROUPS)]
    batches = _batches(chosen)
    squares = np.concatenate([(b[0] ** 2).ravel() for b in batches])
    spans = [max(g.times) - min(g.times) for g in chosen if max(g.times) > min(g.times)]
    largest = max(float(squares.mean()), 1e-12)
    scales = 100 * largest / float(np.median(spans)), 100 * largest

    def likelihood(rate: float, between: float) -> float:
        return sum(_likelihood(*batch, scales[0] * rate**4, scales[1] * between**4) for batch in batches)

    def profile(rate: float) -> tuple[float, float]:
        return _highest(lambda between: likelihood(rate, between))

    place, best = _highest(lambda rate: profile(rate)[1])
    level = best - NORMAL95**2 / 2  # chi-square with one degree of freedom, halved
    low = 0.0 if profile(0.0)[1] >= level else _crossing(lambda x: profile(x)[1] - level, place, 0.0)
    high = 1.0 if profile(1.0)[1] >= level else _crossing(lambda x: profile(x)[1] - level, place, 1.0)
    rate, lowest, most = (scales[0] * x**4 for x in (place, low, high))
    return Drift(rate, lowest, most, scales[1] * profile(place)[0] ** 4, len(chosen))


def _batches(groups: Sequence[Repeats]) -> list[tuple[Numbers, Numbers, Numbers, Numbers]]:
    """Groups of one size together, as differences of neighbours in time [G, n - 1] and what their covariance is made
    of [G, n - 1, n - 1]: of errors, of the walk for rate 1, of disagreement for variance 1.
    """
    sized: dict[int, list[Repeats]] = {}
    for group in groups:
        sized.setdefault(len(group.values), []).append(group)
    made = []
    for size, members in sorted(sized.items()):
        times = np.array([g.times for g in members], dtype=np.float64)
        order = np.argsort(times, axis=1, kind="stable")
        rows: tuple[Any, ...] = (np.arange(len(members))[:, None], order)
        values = np.array([g.values for g in members], dtype=np.float64)[rows]
        own = np.array([g.errors for g in members], dtype=np.float64)[rows] ** 2
        differ = np.diff(np.eye(size), axis=0)  # [n - 1, n]
        walk = np.einsum("gi,ij->gij", np.diff(times[rows], axis=1), np.eye(size - 1))
        noise = np.einsum("ai,gi,bi->gab", differ, own, differ)
        made.append((values @ differ.T, noise, walk, np.broadcast_to(differ @ differ.T, noise.shape)))
    return made


def _likelihood(values: Numbers, noise: Numbers, walk: Numbers, repeats: Numbers, rate: float, between: float) -> float:
    covariance = noise + rate * walk + between * repeats
    if values.shape[1] == 1:
        spread = covariance[:, 0, 0]
        return float(-0.5 * (np.log(spread) + values[:, 0] ** 2 / spread).sum())
    _, logs = np.linalg.slogdet(covariance)
    solved = np.linalg.solve(covariance, values[..., None])[..., 0]
    return float(-0.5 * (logs.sum() + (values * solved).sum()))


def _highest(function: Callable[[float], float]) -> tuple[float, float]:
    """(place, value) of the highest point in [0, 1], on a grid that is laid closer around the best again and again."""
    low, high, best = 0.0, 1.0, (0.0, -math.inf)
    for _ in range(6):
        step = (high - low) / 8
        for place in (low + step * number for number in range(9)):
            value = function(place)
            if value > best[1]:
                best = (place, value)
        low, high = max(0.0, best[0] - step), min(1.0, best[0] + step)
    return best


def _crossing(function: Callable[[float], float], inside: float, outside: float) -> float:
    """Where the function, >= 0 inside and < 0 outside, changes its sign."""
    for _ in range(24):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if function(middle) >= 0 else (inside, middle)
    return inside
