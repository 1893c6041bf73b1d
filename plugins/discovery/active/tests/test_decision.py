"""The decision alone: its expected gain against simulation, and what it buys on a matrix whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosstask.errors import DataError
from crosstask_active import expected_gain, next_pairs


def test_the_expected_gain_by_simulation() -> None:
    """Draw what a measurement would show, update the belief by Bayes, and take the best: the mean rise."""
    rng = np.random.default_rng(0)
    mean, spread = np.array([[0.30], [0.25], [-0.20]]), np.array([[0.05], [0.20], [0.15]])
    noise = 0.07
    expected = expected_gain(mean, spread, noise)
    for i in range(3):
        truth = rng.normal(mean[i, 0], spread[i, 0], 400_000)
        shown = truth + rng.normal(0, noise, len(truth))
        share = spread[i, 0] ** 2 / (spread[i, 0] ** 2 + noise**2)
        updated = mean[i, 0] + share * (shown - mean[i, 0])
        others = max(mean[k, 0] for k in range(3) if k != i)
        simulated = np.maximum(updated, others).mean() - mean.max()
        assert expected[i, 0] == pytest.approx(simulated, abs=3e-4)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 999), st.floats(1e-6, 10))
@settings(max_examples=50, deadline=None)
def test_gains_are_never_negative_and_nothing_is_gained_where_all_is_known(
    rows: int, columns: int, seed: int, noise: float
) -> None:
    rng = np.random.default_rng(seed)
    mean, spread = rng.normal(size=(rows, columns)), rng.exponential(size=(rows, columns))
    gain = expected_gain(mean, spread, noise)
    assert (gain >= 0).all()
    assert (expected_gain(mean, 0 * spread, noise) == 0).all()
    assert (expected_gain(mean, spread, noise) >= expected_gain(mean, spread / 2, noise) - 1e-12).all()
    assert np.allclose(expected_gain(mean + 3, spread, noise), gain), "the level of a target does not matter"
    order = rng.permutation(rows)
    assert np.allclose(expected_gain(mean[order], spread[order], noise), gain[order])


def test_a_pair_between_the_best_two_comes_first() -> None:
    mean = np.array([[0.5, 0.9], [0.48, 0.0], [-0.5, -0.1]])
    spread = np.full((3, 2), 0.1)
    open_ = np.ones((3, 2), dtype=bool)
    first = next_pairs(mean, spread, open_, 2)
    assert {pair[1] for pair in first} == {0}, "only there the choice is not settled"
    assert {pair[0] for pair in first} == {0, 1}


def test_what_is_chosen() -> None:
    rng = np.random.default_rng(1)
    mean, spread = rng.normal(size=(5, 5)), np.full((5, 5), 0.3)
    np.fill_diagonal(mean, np.nan)
    open_ = rng.random((5, 5)) < 0.6
    chosen = next_pairs(mean, spread, open_, 8)
    assert len(set(chosen)) == len(chosen) == 8
    assert all(open_[pair] and pair[0] != pair[1] for pair in chosen)
    free = open_ & ~np.eye(5, dtype=bool)
    assert set(next_pairs(mean, spread, open_, 99)) == {(int(i), int(j)) for i, j in np.argwhere(free)}
    assert next_pairs(mean, spread, open_, 3) == chosen[:3]
    assert next_pairs(mean, 0 * spread, open_, 4) != [], "a budget is spent even where nothing is promised"
    assert next_pairs(mean, spread, np.zeros((5, 5)), 4) == []


def test_mistakes() -> None:
    with pytest.raises(DataError, match="matrices of one shape"):
        next_pairs(np.ones((2, 2)), np.ones((2, 3)), np.ones((2, 2)), 1)
    with pytest.raises(DataError, match="at least 0"):
        next_pairs(np.ones((2, 2)), -np.ones((2, 2)), np.ones((2, 2)), 1)


def regret(truth: np.ndarray, belief: np.ndarray) -> float:
    """Mean normalised regret of choosing the source that is believed the best."""
    found = []
    for j in range(len(truth)):
        column = np.delete(truth[:, j], j)
        chosen = np.delete(belief[:, j], j).argmax()
        found.append((column.max() - column[chosen]) / (column.max() - column.mean()))
    return float(np.mean(found))


def test_it_beats_measuring_at_random() -> None:
    """A known matrix of 16 tasks and a noisy estimate of it; three measurements per task, in three rounds."""
    ours, random, estimate = [], [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        n = 16
        truth = 0.2 * rng.normal(size=(n, n)) + 0.3 * rng.normal(size=n)
        guess = truth + 0.15 * rng.normal(size=(n, n))
        start = np.full((n, n), 0.12)
        estimate.append(regret(truth, guess))
        mean, spread, free = guess.copy(), start.copy(), ~np.eye(n, dtype=bool)
        for _ in range(3):
            for pair in next_pairs(np.where(np.eye(n), np.nan, mean), spread, free, n, noise=0.01):
                mean[pair], spread[pair], free[pair] = truth[pair], 0.01, False
        assert (~free).sum() == n + 3 * n
        ours.append(regret(truth, mean))
        places = np.argwhere(~np.eye(n, dtype=bool))
        known = guess.copy()
        for i, j in rng.permutation(places)[: 3 * n]:
            known[i, j] = truth[i, j]
        random.append(regret(truth, known))
    assert np.mean(ours) < 0.5 * np.mean(random)
    assert np.mean(random) <= np.mean(estimate) + 0.05
    assert np.mean(ours) < 0.1
