"""What is believed of pairs from those that were tried: a linear model with random effects of sources and targets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

LEVEL, TARGET = 0.3, 0.2
"""Standard deviations, before anything is tried, of the mean coefficient, and of a target's mean about it."""
SCALES = (0.02, 0.05, 0.1)
"""Those of a source's effect, of a pair's own, and of what one standard deviation of the estimates is worth, to choose
from."""


@attrs.frozen
class Pair:
    """A source and a target; `score`: the z-score of its estimate among the sources of the target that were looked at;
    if it was tried, the coefficient with its standard error.
    """

    source: str
    target: str
    score: float = 0.0
    value: float = 0.0
    error: float = math.inf


@attrs.frozen
class Scales:
    """Standard deviations of a source's effect and of a pair's own, and what the estimates are worth, give or take as
    much.
    """

    source: float
    pair: float
    slope: float


def expected(tried: Sequence[Pair], wanted: Sequence[Pair], scales: Scales | None = None) -> list[float]:
    """Posterior means of the coefficients of pairs, tried or not, given those that were tried:

    coefficient = level + target + source + slope * score + pair, the slope's prior mean being its scale, since
    estimates are believed to point the right way. Without `scales` those of `SCALES` under which what was tried is
    likeliest. What was measured is drawn towards what is expected of the pair: of several the highest was lucky.
    """
    told = np.array([pair.score for pair in wanted])
    if not tried:
        return [float(mean) for mean in (SCALES[1] if scales is None else scales.slope) * told]
    seen, scores = (np.array([getattr(pair, name) for pair in tried]) for name in ("value", "score"))
    noise = np.diag([pair.error**2 for pair in tried])
    inside, across = _Shared.of(tried, tried), _Shared.of(wanted, tried)

    def likelihood(each: Scales) -> float:
        covariance, left = inside.covariance(each) + noise, seen - each.slope * scores
        return float(-0.5 * (left @ np.linalg.solve(covariance, left) + np.linalg.slogdet(covariance)[1]))

    chosen = scales or max((Scales(*each) for each in itertools.product(SCALES, repeat=3)), key=likelihood)
    weights = np.linalg.solve(inside.covariance(chosen) + noise, seen - chosen.slope * scores)
    return [float(mean) for mean in chosen.slope * told + across.covariance(chosen) @ weights]


@attrs.frozen(eq=False)
class _Shared:
    """What pairs have in common with others [N, M]: source, target, the product of their scores."""

    source: Numbers
    target: Numbers
    score: Numbers

    @classmethod
    def of(cls, some: Sequence[Pair], others: Sequence[Pair]) -> _Shared:
        def same(name: str) -> Numbers:
            ours, theirs = (np.array([getattr(pair, name) for pair in each], dtype=object) for each in (some, others))
            alike: Numbers = np.equal.outer(ours, theirs).astype(np.float64)
            return alike

        return cls(same("source"), same("target"), np.outer([p.score for p in some], [p.score for p in others]))

    def covariance(self, scales: Scales) -> Numbers:
        own = scales.source**2 * self.source + scales.pair**2 * self.source * self.target
        whole: Numbers = LEVEL**2 + TARGET**2 * self.target + own + scales.slope**2 * self.score
        return whole


def within(values: Sequence[float]) -> list[float]:
    """z-scores; 0 where all are equal."""
    given = np.array(values, dtype=np.float64)
    spread = given.std()
    return [0.0] * len(given) if spread < 1e-12 else [float(z) for z in (given - given.mean()) / spread]
