"""Page's cumulative sums."""

from __future__ import annotations

import math

from torch import Tensor

from crosstask.errors import DataError
from crosstask.options import component, option
from crosstask_monitoring import Detector, Evidence, pooled

OVERSHOOT = 0.583
"""By how much a sum of normal values overshoots a threshold on average (Siegmund 1985): -zeta(1/2) / sqrt(2 pi)."""
RECORDS = 8
"""From so many records of the reference on the spread of scores is taken from them."""


def run_length(threshold: float, allowance: float, drop: float = 0.0) -> float:
    """Records to an alarm on average, of standard normal losses whose mean is `drop` (Siegmund 1985, (10.17)): without
    a drop those to a false alarm, with one the delay.
    """
    drift, top = allowance - drop, threshold + 2 * OVERSHOOT
    if abs(drift) < 1e-8:
        return top * top
    return (math.exp(2 * drift * top) - 2 * drift * top - 1) / (2 * drift * drift)


def threshold_for(length: float, allowance: float) -> float:
    """The threshold with which a false alarm comes after `length` records on average."""
    low, high = 0.0, 1.0
    while run_length(high, allowance) < length:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if run_length(middle, allowance) < length else (low, middle)
    return high


@component
class CUSUM(Detector):
    """Losses against the reference in standard errors, less an allowance, added up and never below 0 (Page 1954).

    The spread of a score of n samples is that of the reference's records where there are eight or more, else, between
    two limits, that of zeros and ones: sqrt(m (1 - m) / n). Its run length is that of normal scores with a known mean;
    of the reference's mean, which is estimated, `guard` standard errors are taken off.
    """

    capabilities = frozenset({"run_length", "unbounded"})

    run_length: float = option(1000.0, gt=1, help="records to a false alarm, on average")
    allowance: float = option(0.5, gt=0, help="half of the drop that is to be found soonest, in standard errors")
    guard: float = option(2.0, ge=0, help="standard errors that the reference's mean is lowered by")

    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        self.check_scores(reference, stream, limits)
        mean, count = pooled(reference.double())
        spread = self._spread(reference.double(), mean, limits)
        level = mean - self.guard * spread / math.sqrt(count)
        sums, total = [], 0.0
        for score, samples in stream.tolist():
            total = max(0.0, total + (level - score) * math.sqrt(samples) / spread - self.allowance)
            sums.append(total)
        return Evidence(statistic=tuple(sums), threshold=threshold_for(self.run_length, self.allowance))

    def _spread(self, reference: Tensor, mean: float, limits: tuple[float, float]) -> float:
        """The standard deviation of a score of one sample."""
        low, high = limits
        least = 0.0
        if math.isfinite(low) and math.isfinite(high):
            count = float(reference[:, 1].sum())
            share = (min(high, max(low, mean)) - low) / (high - low)
            share = (share * count + 0.5) / (count + 1)  # never 0 or 1: no score is sure
            least = (high - low) * math.sqrt(share * (1 - share))
        if len(reference) < RECORDS:
            if not least:
                told = f"{self.origin}: of scores without limits the spread must be seen"
                raise DataError(f"{told}: {RECORDS} scores of the reference are needed, got {len(reference)}")
            return least
        within = ((reference[:, 0] - mean).square() * reference[:, 1]).sum() / (len(reference) - 1)
        found = math.sqrt(float(within))
        if not (found or least):
            raise DataError(f"{self.origin}: all scores of the reference are {mean:g}: their spread is not known")
        return max(found, 0.5 * least) if least else found
