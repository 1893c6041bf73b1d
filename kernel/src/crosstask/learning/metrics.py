"""Statistics over seeds, and what counts as transfer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from crosstask.records import Interval

# Two-sided 95 % quantiles of Student's t for 1 to 10 degrees of freedom, then the normal's with the usual correction.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def student_quantile(freedom: int) -> float:
    """How many standard errors a two-sided 95 % interval reaches to each side, by Student's t."""
    return _T95[freedom - 1] if freedom <= len(_T95) else 1.96 + 2.4 / freedom


def confidence_interval(values: Sequence[float], limits: tuple[float, float] | None = None) -> Interval:
    """Mean with its 95 % Student interval over repeats; one value gives an interval of `limits` (or itself).

    `limits` are what the quantity can take at all (infinite: no limit on that side); the interval is cut to them.
    """
    if not values:
        raise ValueError("confidence_interval needs at least one value")
    mean, count = sum(values) / len(values), len(values)
    low, high = limits or (-math.inf, math.inf)
    if count == 1:
        ends = [end if math.isfinite(end) else mean for end in (low, high)]
        return Interval(mean=mean, low=ends[0], high=ends[1], values=tuple(values))
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (count - 1) / count)
    half = student_quantile(count - 1) * spread
    return Interval(mean=mean, low=max(low, mean - half), high=min(high, mean + half), values=tuple(values))


def standard_error(interval: Interval) -> float:
    """Standard error of an interval's mean; 1 where a single value says nothing about it."""
    count = len(interval.values)
    if count < 2:
        return 1.0
    variance = sum((v - interval.mean) ** 2 for v in interval.values) / (count - 1)
    return math.sqrt(variance / count)


def relative_gain(score: float, scratch: float, best: float = 1.0) -> float:
    """The transfer coefficient in [-1, 1] of two scores, neither above `best`.

    A gain counts as the share of the distance from scratch to the best that it closed; a loss as the share of what
    scratch reached that it gave away, or of that same distance where it is larger: near the bottom a small loss is not
    blown up, and chance differences cancel. 0 is no difference, 1 a perfect score. Where there is no best score, the
    difference counts as a share of the larger of the two.
    """
    if math.isinf(best):
        scale = max(abs(score), abs(scratch))
        return max(-1.0, min(1.0, (score - scratch) / scale)) if scale else 0.0
    if score >= scratch:
        return min(1.0, (score - scratch) / (best - scratch)) if best > scratch else 0.0
    return max(-1.0, (score - scratch) / max(scratch, best - scratch))


def moved(scratch: float, coefficient: float, best: float = 1.0) -> float:
    """The score that a transfer coefficient means: what `relative_gain` turns back into the coefficient."""
    if math.isinf(best):
        # (score - scratch) / max(|score|, |scratch|) = c, where score and scratch have one sign
        return scratch + coefficient * abs(scratch)
    if coefficient >= 0:
        return scratch + coefficient * (best - scratch)
    return scratch + coefficient * max(scratch, best - scratch)
