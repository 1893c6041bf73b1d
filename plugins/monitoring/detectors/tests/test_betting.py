"""Detectors by betting: factors against their definition, bounds against closed forms, false alarms as drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from crosstask.errors import DataError, OptionError
from crosstask_detectors import EDetector, EProcess, betting
from crosstask_detectors.betting import DROPS, levels_of, log_factors
from crosstask_monitoring import lower_bound, rows_of
from crosstask_monitoring.testing import accuracies

LIMITS = (0.0, 1.0)


def level(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_a_factor_is_the_likelihood_ratio_of_zeros_and_ones() -> None:
    found = log_factors(rows_of([0.7], 20), level(0.9), "samples")[0, 0]
    for drop, value in zip(DROPS, found.tolist(), strict=True):
        wanted = stats.binom.logpmf(14, 20, 0.9 * (1 - drop)) - stats.binom.logpmf(14, 20, 0.9)
        assert value == pytest.approx(wanted)


@pytest.mark.parametrize("unit", ["samples", "records"])
def test_a_factor_is_a_fair_bet_whatever_the_distribution(unit: str) -> None:
    """Its expectation is at most 1 where that of the values is m or more: also of values that are no zeros and ones."""
    generator, m = np.random.default_rng(0), 0.7
    for draws in (
        generator.random((20000, 8)) < m,
        generator.beta(0.7, 0.3, (20000, 8)),
        np.where(generator.random((20000, 8)) < 0.5, 0.5, 0.9),
    ):
        factors = log_factors(rows_of(draws.mean(1).tolist(), 8), level(m), unit)[:, 0].exp()
        error = factors.std(0) / math.sqrt(len(factors))
        assert (factors.mean(0) <= 1 + 4 * error).all(), (unit, factors.mean(0))
    assert log_factors(rows_of([m], 8), level(m), unit).amax() <= 1e-12, "at the null itself nothing is won"


def test_what_is_won_of_a_mean_is_no_more_than_of_its_values() -> None:
    """The logarithm is concave: a mean of n values stands for zeros and ones, the worst case."""
    values = torch.tensor([0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    m = 0.8
    found = log_factors(rows_of([float(values.mean())], 4), level(m), "samples")[0, 0].tolist()
    for drop, won in zip(DROPS, found, strict=True):
        assert won <= float((1 + drop / (1 - m) * (m - values)).log().sum()) + 1e-12


@pytest.mark.parametrize(("mean", "count", "error"), [(0.95, 400, 0.005), (0.5, 30, 0.1), (1.0, 50, 0.01)])
def test_the_bound_of_the_reference(mean: float, count: int, error: float) -> None:
    found = lower_bound(mean, count, error)
    divergence = stats.entropy([mean, 1 - mean], [found, 1 - found])
    assert count * divergence == pytest.approx(math.log(1 / error), rel=1e-6)
    exact = stats.beta.ppf(error, mean * count, count - mean * count + 1)  # Clopper, Pearson (1934), of zeros and ones
    assert 0 <= exact - found < 0.09, "valid for any distribution, and not much below the exact bound of a proportion"
    assert lower_bound(0.0, 10, 0.1) == 0.0


def test_statistics_are_the_least_of_products_over_the_levels() -> None:
    """The recursions against the sums over beginnings, written out, with the reference's evidence in closed form."""
    stream, reference = accuracies(0.8, 6, seed=1), accuracies(0.9, 10, seed=2)
    mean = float(reference[:, 0].mean())
    levels, known = levels_of(reference, "samples")
    assert float(levels[-1]) == pytest.approx(mean)
    for at in (0, 64, 127):
        m, right = float(levels[at]), 400 * mean
        ratios = [
            stats.binom.pmf(right, 400, 1 - (1 - m) * (1 - drop)) / stats.binom.pmf(right, 400, m) for drop in DROPS
        ]
        assert float(known[at]) == pytest.approx(math.log(0.5 + 0.5 * np.mean(ratios)), rel=1e-6)
    assert float(known[-1]) == pytest.approx(math.log(0.5))
    factors = log_factors(stream, levels, "samples").exp()
    for t in range(1, 7):
        tails = [factors[j - 1 : t].prod(0).mean(1) for j in range(1, t + 1)]
        bets = sum(tail / (j * (j + 1)) for j, tail in enumerate(tails, 1)) + 1 / (t + 1)
        wanted = float((bets.log() + known).min())
        assert EProcess(tolerance=0.0).read(reference, stream, LIMITS).statistic[t - 1] == pytest.approx(wanted)
    tails = torch.stack([factors[j:].prod(0).mean(1) for j in range(6)]).sum(0)
    wanted = float((tails.log() + known).min())
    assert EDetector(tolerance=0.0).read(reference, stream, LIMITS).statistic[-1] == pytest.approx(wanted)


def test_levels_between_those_that_are_looked_at_say_no_less(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, reference = accuracies(0.8, 12, seed=1), accuracies(0.9, 20, seed=2)
    coarse = EProcess().read(reference, stream, LIMITS).statistic
    monkeypatch.setattr(betting, "LEVELS", 4001)
    fine = EProcess().read(reference, stream, LIMITS).statistic
    assert max(abs(a - b) for a, b in zip(coarse, fine, strict=True)) < 0.01


def test_false_alarms_are_as_rare_as_they_say() -> None:
    """alpha = .2, no tolerance, 100 healthy streams of 60 records, each with a reference of its own."""
    detector = EProcess(alpha=0.2, tolerance=0.0)
    alarms = sum(
        detector.read(accuracies(0.8, 10, seed=n), accuracies(0.8, 60, seed=1000 + n), LIMITS).alarm is not None
        for n in range(100)
    )
    assert alarms <= stats.binom.ppf(0.999, 100, 0.2)


def test_runs_are_as_long_as_they_say() -> None:
    """A run length of 50 with the expectation itself as the null: half of the runs would end within 35 records if it
    were exact and memoryless. It is a bound, so at most that.
    """
    detector = EDetector(run_length=50, tolerance=0.0)
    reference = rows_of([0.8], 10**8)  # known as good as exactly
    ends = [detector.read(reference, accuracies(0.8, 120, 10, seed=n), LIMITS).alarm for n in range(60)]
    lengths = [120 if end is None else end + 1 for end in ends]
    assert sum(lengths) / len(lengths) >= 50


def test_records_as_units_need_no_independent_samples() -> None:
    """Samples of one record that are all alike: as samples they give false alarms, as records they do not."""
    generator = np.random.default_rng(0)
    alarms = {"samples": 0, "records": 0}
    for _ in range(20):
        reference, stream = (rows_of((generator.random(n) < 0.9).astype(float).tolist(), 40) for n in (200, 60))
        for unit in alarms:
            alarms[unit] += EProcess(unit=unit).read(reference, stream, LIMITS).alarm is not None
    assert alarms["records"] == 0
    assert alarms["samples"] > 10
    low = EProcess(unit="records").read(accuracies(0.9, 60), accuracies(0.4, 40, seed=1), LIMITS)
    assert low.alarm is not None


def test_a_late_drop_takes_little_longer() -> None:
    early, late = (
        EProcess().read(
            accuracies(0.9, 20), torch.cat([accuracies(0.9, n, seed=1), accuracies(0.7, 20, seed=2)]), LIMITS
        ).alarm
        for n in (2, 300)
    )  # fmt: skip
    assert early is not None
    assert late is not None
    assert (late - 300) - (early - 2) <= 12, (
        "a bet that begins at 300 is a 90,000th of the stake: 11.4 more, in logarithms"
    )


def test_a_drop_within_the_tolerance_is_none() -> None:
    reference, stream = rows_of([0.9], 10**5), rows_of([0.88] * 30, 2000)
    assert EProcess(tolerance=0.0).read(reference, stream, LIMITS).alarm is not None
    assert EProcess(tolerance=0.05).read(reference, stream, LIMITS).alarm is None


def test_bad_options_and_scores_say_what_is_wrong() -> None:
    with pytest.raises(OptionError, match="unit cannot be 'sample'; did you mean 'samples'"):
        EProcess(unit="sample")
    with pytest.raises(DataError, match=r"reads scores between two limits.*claims 'unbounded', such as cusum"):
        EProcess().read(rows_of([-1.0], 3), rows_of([-1.0], 3), (-math.inf, 0.0))
