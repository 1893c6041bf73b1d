"""Detectors by betting: nonparametric, for any score that is a mean of values between two limits.

Under the null hypothesis that no score's expectation is below m, the factor

    prod over the samples of  1 + b (m - x)  >=  ((1 - q) / (1 - m))^(n (1 - x)) * (q / m)^(n x),  q = m - b m (1 - m)

has an expectation of at most 1, whatever the distribution (Waudby-Smith, Ramdas 2024, section 4). The right side, which
needs only the mean x of n values in [0, 1], is below it because the logarithm is concave; of zeros and ones they are
equal, and it is the likelihood ratio of a share q against m. q takes several values at once (a mixture).

m is not known, but the reference says of each level how unlikely it is, by the same bets mirrored: what is won from it
against a level m, times what is won from the stream against a drop below m, is won from both. The evidence is the least
of these products over all levels, so that it holds whichever is the true one.
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


LEVELS = 129
"""Levels that are looked at: the least product lies between two of them, where it hardly changes."""
NEVER = 1e-9
"""The chance that the true level is below all of them."""


def log_factors(stream: Tensor, null: Tensor, unit: str) -> Tensor:
    """Logarithms [T, M, J] of what bets on each of `DROPS` below each of the levels `null` [M] are multiplied by at
    each record [T, 2] (scores 0 to 1).
    """
    m = null[:, None].clamp(_LEAST, 1 - _LEAST)
    drops = torch.tensor(DROPS, dtype=torch.float64)
    scores, counts = (stream[:, column, None, None].double() for column in (0, 1))
    below = ((1 - m * (1 - drops)) / (1 - m)).log()  # q = m (1 - drop)
    if unit == "samples":
        return counts * ((1 - scores) * below + scores * (1 - drops).log())
    return (1 + drops / (1 - m) * (m - scores)).log()


def levels_of(reference: Tensor, unit: str) -> tuple[Tensor, Tensor]:
    """(levels [M] of the score in question, logarithms [M] of the evidence of the reference against each). All that lie
    above its mean are stood for by the mean itself with the half of the stake that is not bet: above it more is won
    from the stream.
    """
    if unit == "records":
        mean, count = float(reference[:, 0].mean()), float(len(reference))
    else:
        mean, count = pooled(reference)
    levels = torch.linspace(lower_bound(mean, count, NEVER), mean, LEVELS, dtype=torch.float64)
    mirrored = torch.stack([1 - reference[:, 0], reference[:, 1]], dim=1)
    won = log_factors(mirrored, 1 - levels, unit).sum(0).logsumexp(1) - math.log(len(DROPS))
    half = math.log(0.5)
    evidence = torch.logaddexp(won + half, torch.tensor(half, dtype=torch.float64))
    evidence[-1] = half
    return levels, evidence


_UNIT = "what is independent: the samples behind a score, or only one record and the next"


@component
class EProcess(Detector):
    """Bets that the score has dropped at some record; at every record part of the stake that is left is put in.

    The sum of the bets, begun with 1, reaches 1 / alpha with a probability of at most alpha while there is no drop,
    however long it runs (Ville 1939); it is checked after each record, as often as one likes. A bet that begins at
    record t is 1 / (t (t + 1)) of the stake, so that a late drop is found with a delay that grows with the logarithm of
    t. What a small reference cannot tell from its own chance is no drop, however long it lasts.
    """

    capabilities = frozenset({"anytime"})

    alpha: float = option(0.01, gt=0, lt=1, help="the chance of ever a false alarm")
    tolerance: float = option(0.02, ge=0, lt=1, help="a drop up to this share of the limits' distance is none")
    unit: str = option("samples", choices=("samples", "records"), help=_UNIT)

    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        self.check_scores(reference, stream, limits)
        levels, known = levels_of(scaled(reference, limits), self.unit)
        wealth, found = torch.full((LEVELS, len(DROPS)), -math.inf, dtype=torch.float64), []
        for t, row in enumerate(scaled(stream, limits), 1):
            (gain,) = log_factors(row[None], levels - self.tolerance, self.unit)
            wealth = torch.logaddexp(wealth, torch.tensor(-math.log(t * (t + 1)), dtype=torch.float64)) + gain
            bets = wealth.logsumexp(1) - math.log(len(DROPS))
            rest = torch.tensor(-math.log(t + 1), dtype=torch.float64)  # what is not put in yet
            found.append(float((torch.logaddexp(bets, rest) + known).min()))
        return Evidence(statistic=tuple(found), threshold=math.log(1 / self.alpha))


@component
class EDetector(Detector):
    """Bets that begin at every record, all with a stake of 1, added up (Shiryaev 1963, Roberts 1966, for e-values).

    Without a drop an alarm comes after `run_length` records on average, or later, whatever the distribution. The delay
    does not grow with the time before the drop.
    """

    capabilities = frozenset({"run_length"})

    run_length: float = option(1000.0, gt=1, help="records to a false alarm, on average at least")
    tolerance: float = option(0.02, ge=0, lt=1, help="a drop up to this share of the limits' distance is none")
    unit: str = option("samples", choices=("samples", "records"), help=_UNIT)

    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        self.check_scores(reference, stream, limits)
        levels, known = levels_of(scaled(reference, limits), self.unit)
        wealth, found = torch.full((LEVELS, len(DROPS)), -math.inf, dtype=torch.float64), []
        for row in scaled(stream, limits):
            (gain,) = log_factors(row[None], levels - self.tolerance, self.unit)
            wealth = torch.logaddexp(wealth, torch.zeros((), dtype=torch.float64)) + gain
            found.append(float((wealth.logsumexp(1) - math.log(len(DROPS)) + known).min()))
        return Evidence(statistic=tuple(found), threshold=math.log(self.run_length))
