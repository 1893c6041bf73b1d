"""CUSUM: its run length against the tables, drawn runs, and the spread that it takes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crosstask.errors import DataError
from crosstask_detectors import CUSUM, run_length, threshold_for
from crosstask_monitoring import rows_of


@pytest.mark.parametrize(
    ("threshold", "drop", "wanted"),
    # One-sided run lengths with an allowance of .5: van Dobben de Bruyn (1968), Montgomery (2013), table 9.3 (doubled
    # where there is no drop, as that table is two-sided)
    [(4, 0.0, 336), (5, 0.0, 930), (4, 1.0, 8.38), (5, 1.0, 10.4), (4, 2.0, 3.34), (5, 2.0, 4.01)],
)
def test_run_lengths_are_those_of_the_tables(threshold: float, drop: float, wanted: float) -> None:
    assert run_length(threshold, 0.5, drop) == pytest.approx(wanted, rel=0.04)


def test_the_threshold_is_the_inverse() -> None:
    for length in (50, 370, 1000):
        assert run_length(threshold_for(length, 0.5), 0.5) == pytest.approx(length, rel=1e-6)
    assert run_length(4, 0.5, 0.5) == pytest.approx(run_length(4, 0.5, 0.5 + 1e-6), rel=1e-4)


def test_drawn_runs_are_as_long_as_theory_says() -> None:
    """Normal scores with a known mean and spread, 300 runs of a run length of 40; and the delay of a drop of two."""
    generator = np.random.default_rng(0)
    detector = CUSUM(run_length=40, guard=0.0)
    reference = rows_of((np.tile([-1.0, 1.0], 5000)).tolist(), 1)  # mean 0, spread 1
    limits = (-math.inf, math.inf)
    for drop, wanted in ((0.0, 40.0), (2.0, run_length(threshold_for(40, 0.5), 0.5, 2.0))):
        lengths = []
        for _ in range(300):
            end = detector.read(reference, rows_of(generator.normal(-drop, 1, 200).tolist(), 1), limits).alarm
            lengths.append(200 if end is None else end + 1)
        mean, error = np.mean(lengths), np.std(lengths) / math.sqrt(300)
        assert abs(mean - wanted) < 3 * error + 0.05 * wanted, (drop, mean, wanted)


def test_the_spread_is_that_of_zeros_and_ones_or_of_the_reference() -> None:
    detector = CUSUM(guard=0.0)
    short = detector.read(rows_of([0.8], 400), rows_of([0.6], 25), (0.0, 1.0))
    share = (0.8 * 400 + 0.5) / 401
    assert short.statistic[0] == pytest.approx(0.2 * 5 / math.sqrt(share * (1 - share)) - 0.5)
    scores = [0.5, 0.9, 0.4, 0.8, 0.6, 0.7, 0.9, 0.4]
    own = np.std(scores, ddof=1) * math.sqrt(25)
    long = detector.read(rows_of(scores, 25), rows_of([0.3], 25), (0.0, 1.0))
    assert long.statistic[0] == pytest.approx((np.mean(scores) - 0.3) * 5 / own - 0.5)


def test_the_guard_lowers_the_reference() -> None:
    plain, guarded = (CUSUM(guard=g).read(rows_of([0.5], 100), rows_of([0.2], 100), (0.0, 1.0)) for g in (0.0, 2.0))
    assert plain.statistic[0] - guarded.statistic[0] == pytest.approx(2.0)


def test_scores_without_limits_need_a_reference_that_shows_their_spread() -> None:
    limits = (-math.inf, 0.0)
    with pytest.raises(DataError, match="8 scores of the reference are needed, got 3"):
        CUSUM().read(rows_of([-1.0, -1.1, -0.9], 10), rows_of([-1.0], 10), limits)
    with pytest.raises(DataError, match="all scores of the reference are -1: their spread is not known"):
        CUSUM().read(rows_of([-1.0] * 9, 10), rows_of([-1.0], 10), limits)
