"""Detectors by betting: nonparametric, for any score that is a mean of values between two limits.

Under the null hypothesis that no score's expectation is below m, the factor

    prod over the samples of  1 + b (m - x)  >=  ((1 - q) / (1 - m))^(n (1 - x)) * (q / m)^(n x),  q = m - b m (1 - m)

has an expectation of at most 1, whatever the distribution (Waudby-Smith, Ramdas 2024, section 4). The right side, which
needs only the mean x of n values in [0, 1], is below it because the logarithm is concave; of zeros and ones they are
equal, and it is the likelihood ratio of a share q against m. q takes several values at once (a mixture).

m is not known: it is what the reference's expectation is not below, but with a small probability that is counted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crosstask.options import component, option
from crosstask_monitoring import Detector, Evidence, lower_bound, pooled, scaled

DROPS = (0.75, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625)
"""Drops that are bet on at once, as shares of m."""
_LEAST = 1e-6


def log_factors(stream: Tensor, null: float, unit: str) -> Tensor:
    """Logarithms [T, J] of what a bet on each of `DROPS` is multiplied by at each record [T, 2] (scores 0 to 1)."""
    m = min(1 - _LEAST, max(_LEAST, null))
    q = m * (1 - torch.tensor(DROPS, dtype=torch.float64))
    scores, counts = stream[:, :1].double(), stream[:, 1:].double()
    if unit == "samples":
        return counts * ((1 - scores) * ((1 - q) / (1 - m)).log() + scores * (q / m).log())
    return (1 + (m - q) / (m * (1 - m)) * (m - scores)).log()


def null_of(reference: Tensor, tolerance: float, error: float, unit: str) -> float:
    """What the expectation of the reference (scores 0 to 1) is not below, less the tolerance."""
    if unit == "records":
        mean, count = float(reference[:, 0].mean()), float(len(reference))
    else:
        mean, count = pooled(reference)
    return lower_bound(mean, count, error) - tolerance


_UNIT = "what is independent: the samples behind a score, or only one record and the next"


@component
class EProcess(Detector):
    """Bets that the score has dropped at some record; at every record part of the stake that is left is put in.

    The sum of the bets, begun with 1, reaches 2 / alpha with a probability of at most alpha / 2 while there is no drop,
    however long it runs (Ville 1939); the other half is that of the reference's bound. It is checked after each record,
    as often as one likes. A bet that begins at record t is 1 / (t (t + 1)) of the stake, so that a late drop is found
    with a delay that grows with the logarithm of t.
    """

    capabilities = frozenset({"anytime"})

    alpha: float = option(0.01, gt=0, lt=1, help="the chance of ever a false alarm")
    tolerance: float = option(0.02, ge=0, lt=1, help="a drop up to this share of the limits' distance is none")
    unit: str = option("samples", choices=("samples", "records"), help=_UNIT)

    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        self.check_scores(reference, stream, limits)
        null = null_of(scaled(reference, limits), self.tolerance, self.alpha / 2, self.unit)
        gains = log_factors(scaled(stream, limits), null, self.unit)
        wealth, found = torch.full((len(DROPS),), -math.inf, dtype=torch.float64), []
        for t, gain in enumerate(gains, 1):
            wealth = torch.logaddexp(wealth, torch.tensor(-math.log(t * (t + 1)), dtype=torch.float64)) + gain
            rest = torch.tensor([-math.log(t + 1)], dtype=torch.float64)  # what is not put in yet
            bets = wealth.logsumexp(0, keepdim=True) - math.log(len(DROPS))
            found.append(float(torch.cat([bets, rest]).logsumexp(0)))
        return Evidence(statistic=tuple(found), threshold=math.log(2 / self.alpha))


@component
class EDetector(Detector):
    """Bets that begin at every record, all with a stake of 1, added up (Shiryaev 1963, Roberts 1966, for e-values).

    Without a drop an alarm comes after `run_length` records on average, or later, whatever the distribution, but where
    the reference's bound fails (a probability of `error`). The delay does not grow with the time before the drop.
    """

    capabilities = frozenset({"run_length"})

    run_length: float = option(1000.0, gt=1, help="records to a false alarm, on average at least")
    error: float = option(0.01, gt=0, lt=1, help="the chance that the reference's bound is above its expectation")
    tolerance: float = option(0.02, ge=0, lt=1, help="a drop up to this share of the limits' distance is none")
    unit: str = option("samples", choices=("samples", "records"), help=_UNIT)

    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        self.check_scores(reference, stream, limits)
        null = null_of(scaled(reference, limits), self.tolerance, self.error, self.unit)
        wealth, found = torch.full((len(DROPS),), -math.inf, dtype=torch.float64), []
        for gain in log_factors(scaled(stream, limits), null, self.unit):
            wealth = torch.logaddexp(wealth, torch.zeros(1, dtype=torch.float64)) + gain
            found.append(float(wealth.logsumexp(0)) - math.log(len(DROPS)))
        return Evidence(statistic=tuple(found), threshold=math.log(self.run_length))
