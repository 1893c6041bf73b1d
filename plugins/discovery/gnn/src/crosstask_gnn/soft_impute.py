"""Completion of a matrix by one of small nuclear norm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crosstask_gnn.additive import additive
from crosstask_gnn.pairs import Array, Mask, Pairs

PENALTIES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Tried in turn, as shares of the largest singular value of what is known."""


def soft_impute(pairs: Pairs, seed: int = 0) -> Array:
    """[n, n]: additive effects plus the completion of what they leave, its penalty chosen on a fifth held out.

    Mazumder, Hastie, Tibshirani (2010), Spectral regularization algorithms for learning large incomplete matrices.
    """
    seen = pairs.measured
    places = np.argwhere(seen)
    base = additive(pairs)
    if len(places) < 10:
        return base
    held = np.random.default_rng(seed).permutation(len(places))[: len(places) // 5]
    hidden = np.zeros_like(seen)
    hidden[tuple(places[held].T)] = True
    fewer = pairs.without(hidden)
    start = additive(fewer)
    rest = np.where(seen & ~hidden, pairs.known - start, 0.0)
    scale = _largest(rest)
    if scale < 1e-9:
        return base
    rounds = 40 if pairs.count <= 200 else 12  # of large matrices the last digits are not worth the time
    tried = completions(rest, seen & ~hidden, [share * scale for share in PENALTIES], rounds=rounds)
    errors = [float(((start + guess - pairs.known)[hidden] ** 2).sum()) for guess in tried]
    errors.append(float(((start - pairs.known)[hidden] ** 2).sum()))  # nothing but the effects
    best = int(np.argmin(errors))
    if best == len(PENALTIES):
        return base
    rest = np.where(seen, pairs.known - base, 0.0)
    return base + complete(rest, seen, PENALTIES[best] * _largest(rest), rounds=rounds)


def complete(values: Array, seen: Mask, penalty: float, rank: int = 12, rounds: int = 40) -> Array:
    """The matrix Z [n, m] of smallest |P(values - Z)|^2 / 2 + penalty * (nuclear norm of Z), P: only where `seen`.

    By its factors: Z = A B' with (|A|^2 + |B|^2) / 2 for the nuclear norm, which is the same where the solution's rank
    is at most `rank` (Hastie et al. 2015, theorem 3); rows of A given B, and of B given A, are ridge regressions.
    """
    made: Array = completions(values, seen, [penalty], rank, rounds)[0]
    return made


def completions(values: Array, seen: Mask, penalties: Sequence[float], rank: int = 12, rounds: int = 40) -> Array:
    """[p, n, m]: `complete` for several penalties at once, each until its own factors stand still."""
    rank = min(rank, *values.shape)
    filled = np.where(seen, values, 0.0)
    left, size, right = _leading(filled, rank)
    penalty = np.array(penalties)[:, None, None]
    root = np.sqrt(np.maximum(size[:rank] - penalty, 1e-3 * size[0] + 1e-12))
    a, b = left[:, :rank] * root, right[:rank].T * root
    weights = seen.astype(np.float64)
    ridge = penalty[..., None] * np.eye(rank)
    products = np.empty((len(penalty), *values.shape))
    going = np.arange(len(penalty))
    for number in range(rounds):
        before = a
        a = _ridge_rows(filled, weights, b, ridge)
        b = _ridge_rows(filled.T, weights.T, a, ridge)
        moved = np.abs(a - before).max((1, 2))
        still = (moved < 1e-5 * np.maximum(np.abs(a).max((1, 2)), 1e-12)) | (number == rounds - 1)
        products[going[still]] = a[still] @ b[still].swapaxes(1, 2)
        a, b, ridge, going = (x[~still] for x in (a, b, ridge, going))
        if not len(going):
            break
    return products


def _largest(values: Array) -> float:
    return float(_leading(values, 1)[1][0])


def _leading(values: Array, rank: int) -> tuple[Array, Array, Array]:
    """At least the first `rank` singular vectors and values; of large matrices by subspace iteration (Halko et al.
    2011, algorithm 4.4), which is close enough to start from.
    """
    if min(values.shape) > 200:
        basis = np.random.default_rng(0).normal(size=(values.shape[1], rank + 8))
        for _ in range(6):
            basis = np.linalg.qr(values.T @ np.linalg.qr(values @ basis)[0])[0]
        left, size, small = np.linalg.svd(values @ basis, full_matrices=False)
        return left, size, small @ basis.T
    left, size, right = np.linalg.svd(values, full_matrices=False)
    return left, size, right


def _ridge_rows(values: Array, weights: Array, factor: Array, ridge: Array) -> Array:
    """[p, n, r] from values and weights [n, m], the other side's factors [p, m, r] and ridges [p, 1, r, r]."""
    count, m, rank = factor.shape
    squares = (factor[..., :, None] * factor[..., None, :]).reshape(count, m, rank * rank)
    grams = (weights @ squares).reshape(count, len(values), rank, rank) + ridge
    solved: Array = np.linalg.solve(grams, (values @ factor)[..., None])[..., 0]
    return solved
