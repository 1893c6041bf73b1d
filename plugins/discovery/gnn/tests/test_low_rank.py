"""The low-rank model: what it recovers, what it leaves alone, and whether its intervals hold what they say."""

import numpy as np
import pytest

from crosstask_gnn.additive import additive
from crosstask_gnn.low_rank import low_rank, low_ranks
from crosstask_gnn.pairs import Pairs
from crosstask_gnn.soft_impute import soft_impute


def world(seed: int, rank: int, noise: float = 0.05, n: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """(what is true, what is measured), of effects and `rank` products."""
    rng = np.random.default_rng(seed)
    true = 0.3 * rng.normal(size=n)[:, None] + 0.3 * rng.normal(size=n)
    true = true + rng.normal(size=(n, rank)) @ (0.3 * rng.normal(size=(rank, n)))
    return true, true + noise * rng.normal(size=(n, n))


def hidden(seed: int, n: int, share: float) -> np.ndarray:
    mask = np.random.default_rng(seed).random((n, n)) < share
    np.fill_diagonal(mask, False)
    return mask


@pytest.mark.parametrize("rank", [1, 3])
def test_a_matrix_of_low_rank_is_recovered(rank: int) -> None:
    """The rank is not told: components that nothing speaks for vanish."""
    for seed in range(3):
        true, seen = world(seed, rank)
        mask = hidden(seed, 24, 0.4)
        pairs = Pairs.of(np.where(mask, np.nan, seen))
        found = low_rank(pairs)
        off = np.sqrt(np.mean((found.mean - true)[mask] ** 2))
        assert off < 0.08
        assert off < 0.5 * np.sqrt(np.mean((soft_impute(pairs) - true)[mask] ** 2))
        assert found.noise == pytest.approx(0.05**2, rel=0.5)


def test_without_products_it_is_the_additive_model() -> None:
    true, seen = world(0, 0)
    mask = hidden(0, 24, 0.5)
    pairs = Pairs.of(np.where(mask, np.nan, seen))
    assert np.abs(low_rank(pairs).mean - additive(pairs, shrinkage=0.02))[mask].max() < 0.03
    assert np.sqrt(np.mean((low_rank(pairs).mean - true)[mask] ** 2)) < 0.03


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_its_intervals_hold_what_they_say(share: float) -> None:
    held = []
    for seed in range(8):
        _, seen = world(seed, 2, 0.1)
        mask = hidden(seed, 24, share)
        found = low_rank(Pairs.of(np.where(mask, np.nan, seen)))
        held.append(np.mean((np.abs(found.mean - seen) < 1.96 * np.sqrt(found.variance))[mask]))
    assert 0.9 < np.mean(held) < 0.99


def test_what_other_evidence_says_is_where_it_starts_from() -> None:
    """With a prior that is right, hardly anything needs to be measured."""
    true, seen = world(1, 3)
    mask = hidden(1, 24, 0.9)
    pairs = Pairs.of(np.where(mask, np.nan, seen))
    off = np.abs(low_rank(pairs, true).mean - true)[mask].mean()
    assert off < 0.02 < np.abs(low_rank(pairs).mean - true)[mask].mean()


def test_sure_measurements_count_for_more() -> None:
    """One pair measured badly, and said to be: the answer for its row stays near what the others say."""
    true, seen = world(2, 1)
    seen[3, 5] += 2.0
    errors = np.full(seen.shape, np.nan)
    unsaid = low_rank(Pairs.of(seen, errors)).mean
    errors[3, 5] = 2.0
    said = low_rank(Pairs.of(seen, errors)).mean
    assert abs(said[3, 5] - true[3, 5]) < 0.15 < abs(unsaid[3, 5] - true[3, 5])


def test_with_next_to_nothing_it_says_the_mean() -> None:
    known = np.full((5, 5), np.nan)
    assert np.array_equal(low_rank(Pairs.of(known)).mean, np.zeros((5, 5)))
    known[0, 1] = 0.4
    assert low_rank(Pairs.of(known)).mean == pytest.approx(0.4)


def test_many_tasks_and_the_same_seed() -> None:
    true, seen = world(3, 2, n=210)
    mask = hidden(3, 210, 0.7)
    pairs = Pairs.of(np.where(mask, np.nan, seen))
    found = low_rank(pairs, seed=4)
    assert np.sqrt(np.mean((found.mean - true)[mask] ** 2)) < 0.05
    assert np.array_equal(found.mean, low_rank(pairs, seed=4).mean)


def test_together_they_are_what_each_is_alone() -> None:
    """Of several, some with other ranks, priors or standard errors, one with next to nothing: to the last digits."""
    parts, priors = [], []
    for seed in range(4):
        true, seen = world(seed, 2, n=14)
        known = np.where(hidden(seed, 14, 0.5), np.nan, seen)
        known[:, : 9 * (seed == 1)] = np.nan  # five targets only: rank 4 at most
        parts.append(Pairs.of(known, np.full((14, 14), 0.1) if seed == 2 else None))
        priors.append(0.5 * true if seed == 3 else None)
    parts.append(Pairs.of(np.full((14, 14), np.nan)))
    priors.append(None)
    for each, pairs, prior in zip(low_ranks(parts, priors), parts, priors, strict=True):
        alone = low_rank(pairs, prior)
        assert each.mean == pytest.approx(alone.mean, abs=1e-12)
        assert each.variance == pytest.approx(alone.variance, rel=1e-9)
        assert each.noise == pytest.approx(alone.noise, rel=1e-9)
    assert low_ranks([]) == []
