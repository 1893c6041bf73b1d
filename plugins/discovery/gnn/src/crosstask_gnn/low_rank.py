"""Completion of a matrix by one of low rank with intercepts, its rank and all strengths weighed by the evidence."""

from __future__ import annotations

import attrs
import numpy as np

from crosstask_gnn.pairs import Array, Pairs


@attrs.frozen(eq=False)
class Completed:
    """`mean` [n, n], and `variance` [n, n] of a coefficient measured there, its `noise` (a variance) included."""

    mean: Array
    variance: Array
    noise: float
    bound: float = 0.0
    """On the logarithm of the evidence, up to a constant."""


def low_rank(
    pairs: Pairs, prior: Array | None = None, *, rank: int = 8, starts: int = 3, rounds: int = 150, seed: int = 0
) -> Completed:
    """Posterior of coefficient = prior + mean + target's effect + source's effect + u(source) · v(target) + noise.

    All of them are normal: u with variance 1, each component of v, and each kind of effect, with a variance of its own,
    which is fitted (automatic relevance determination: components that nothing speaks for shrink to nothing). Fitted by
    variational Bayes: Lim, Teh (2007), Variational Bayesian approach to movie rating prediction, section 3; Ilin, Raiko
    (2010), Practical approaches to principal component analysis in the presence of missing values, JMLR 11, section 4.
    What a measurement states as its standard error is noise on top. `prior` [n, n] is what other evidence says, 0 by
    default. The answer is the mean of `starts` fits, whose disagreement is part of the variance.
    """
    seen = pairs.measured
    base = np.zeros(seen.shape) if prior is None else prior
    if seen.sum() < 3:
        level = float((pairs.known - base)[seen].mean()) if seen.any() else 0.0
        return Completed(base + level, np.full(seen.shape, 0.04), 0.04)
    rest = np.where(seen, pairs.known - base, 0.0)
    stated = np.where(seen, np.nan_to_num(pairs.error) ** 2, 0.0)
    if pairs.count > 200:  # of large matrices the last digits are not worth the time
        starts, rounds = 1, 30
    most = max(1, min(rank, *(int(m.any(axis).sum()) - 1 for axis, m in enumerate((seen, seen)))))
    rng = np.random.default_rng(seed)
    fits = [_fit(rest, seen, stated, most, rounds, rng, wide=bool(number % 2)) for number in range(starts)]
    likely = np.exp([fit.bound - max(fit.bound for fit in fits) for fit in fits])
    shares = likely / likely.sum()
    mean = np.sum([share * fit.mean for share, fit in zip(shares, fits, strict=True)], axis=0)
    variance = np.sum(
        [share * (fit.variance + (fit.mean - mean) ** 2) for share, fit in zip(shares, fits, strict=True)], axis=0
    )
    return Completed(base + mean, variance, float(shares @ [fit.noise for fit in fits]))


def _fit(
    values: Array, seen: Array, stated: Array, rank: int, rounds: int, rng: np.random.Generator, *, wide: bool
) -> Completed:
    n, m = values.shape
    told = seen.astype(np.float64)
    scale = float(values[seen].std()) or 1e-3
    noise = 0.5 * scale**2
    mean = float(values[seen].mean())
    rows, columns = np.zeros(n), np.zeros(m)
    rows_var, columns_var = np.full(n, 0.1 * scale**2), np.full(m, 0.1 * scale**2)
    row_prior = column_prior = scale**2
    left, right = _start(values, seen, rank, rng, wide=wide)
    left_cov = np.repeat(0.1 * np.eye(rank)[None], n, 0)
    right_cov = np.repeat(0.01 * scale**2 * np.eye(rank)[None], m, 0)
    relevance = np.maximum((right**2).mean(0), 1e-4 * scale**2)
    for number in range(rounds):
        weights = told / (noise + stated)
        before = left @ right.T
        centred = values - mean - columns - before
        precision = weights.sum(1) + 1 / row_prior
        rows, rows_var = (weights * centred).sum(1) / precision, 1 / precision
        centred = values - mean - rows[:, None] - before
        precision = weights.sum(0) + 1 / column_prior
        columns, columns_var = (weights * centred).sum(0) / precision, 1 / precision
        mean = float((weights * (values - rows[:, None] - columns - before)).sum() / weights.sum())
        centred = values - mean - rows[:, None] - columns
        left, left_cov = _factor(centred, weights, right, right_cov, np.ones(rank))
        right, right_cov = _factor(centred.T, weights.T, left, left_cov, relevance)
        left, left_cov, right, right_cov = _rotated(left, left_cov, right, right_cov)
        relevance = np.maximum((right**2).mean(0) + np.einsum("jkk->k", right_cov) / m, 1e-8 * scale**2)
        if number >= 5:  # the effects first
            row_prior = max(float((rows**2 + rows_var)[told.any(1)].mean()), 1e-8 * scale**2)
            column_prior = max(float((columns**2 + columns_var)[told.any(0)].mean()), 1e-8 * scale**2)
        spread = _spread(left, left_cov, right, right_cov)
        uncertain = rows_var[:, None] + columns_var + spread
        product = left @ right.T
        squares = (values - mean - rows[:, None] - columns - product) ** 2 + uncertain
        share = told / (noise + stated) ** 2
        # What is left beyond what the measurements state of themselves, with a weak prior at a tenth of the variance.
        noise = float(((share * (squares - stated)).sum() + 0.2 * share.max()  * 0.1 * scale**2)
                      / (share.sum() + 0.2 * share.max()))  # fmt: skip
        noise = max(noise, 1e-6 * scale**2, 1e-12)
        if number > 10 and float(np.abs(product - before).max()) < 1e-4 * scale:
            break
    bound = -0.5 * float((told * (np.log(noise + stated) + squares / (noise + stated))).sum())
    bound -= _divergence(left, left_cov, np.ones(rank)) + _divergence(right, right_cov, relevance)
    for effects, spreads, prior in ((rows, rows_var, row_prior), (columns, columns_var, column_prior)):
        bound -= _divergence(effects[:, None], spreads[:, None, None], np.array([prior]))
    empty_rows, empty_columns = ~told.any(1), ~told.any(0)
    uncertain = uncertain + np.where(empty_rows, row_prior - rows_var, 0)[:, None]
    uncertain = uncertain + np.where(empty_columns, column_prior - columns_var, 0)
    return Completed(mean + rows[:, None] + columns + left @ right.T, uncertain + noise, noise, bound)


def _start(values: Array, seen: Array, rank: int, rng: np.random.Generator, *, wide: bool) -> tuple[Array, Array]:
    """From the leading singular vectors of what is known beyond the effects, or at random around them."""
    count = np.maximum(seen.sum(1), 1), np.maximum(seen.sum(0), 1)
    mean = values[seen].mean()
    rows = np.where(seen, values - mean, 0).sum(1) / (count[0] + 1)
    columns = np.where(seen, values - mean - rows[:, None], 0).sum(0) / (count[1] + 1)
    left_over = np.where(seen, values - mean - rows[:, None] - columns, 0.0)
    u, s, vt = np.linalg.svd(left_over * (seen.size / seen.sum()) ** 0.5, full_matrices=False)
    left = u[:, :rank] * np.sqrt(len(values))
    right = vt[:rank].T * s[:rank] / np.sqrt(len(values))
    scale = float(left_over[seen].std()) / rank**0.5
    if wide:
        return rng.normal(size=left.shape), rng.normal(scale=scale, size=right.shape)
    return left + 0.1 * rng.normal(size=left.shape), right + 0.1 * rng.normal(scale=scale, size=right.shape)


def _factor(centred: Array, weights: Array, other: Array, other_cov: Array, prior: Array) -> tuple[Array, Array]:
    """Posterior means [n, k] and covariances [n, k, k] of one side's factors, given the other side's."""
    k = other.shape[1]
    moments = (other[:, :, None] * other[:, None, :] + other_cov).reshape(len(other), -1)
    precision = (weights @ moments).reshape(-1, k, k) + np.diag(1 / prior)
    covariance = np.linalg.inv(precision)
    found = np.einsum("nkl,nl->nk", covariance, (weights * centred) @ other)
    return found, covariance


def _divergence(means: Array, covariances: Array, prior: Array) -> float:
    """Of normal distributions from independent ones about 0 with the variances `prior`, summed (Kullback, Leibler)."""
    squares = means**2 + np.einsum("nkk->nk", covariances)
    inner = (squares / prior - 1 + np.log(prior)).sum() - np.linalg.slogdet(covariances)[1].sum()
    return 0.5 * float(inner)


def _rotated(left: Array, left_cov: Array, right: Array, right_cov: Array) -> tuple[Array, Array, Array, Array]:
    """The same products with the left side's second moment the identity and the right side's diagonal: the direction
    in which the bound rises slowly otherwise (Ilin, Raiko 2010, section 4.2).
    """
    moment = (left.T @ left + left_cov.sum(0)) / len(left)
    values, vectors = np.linalg.eigh(moment)
    values = np.maximum(values, 1e-12)
    root, inverse = vectors * np.sqrt(values), vectors / np.sqrt(values)
    other = root.T @ (right.T @ right + right_cov.sum(0)) @ root
    turn = np.linalg.eigh(other)[1][:, ::-1]
    a, b = inverse @ turn, root @ turn
    return (left @ a, np.einsum("kl,nkm,mo->nlo", a, left_cov, a, optimize=True),
            right @ b, np.einsum("kl,nkm,mo->nlo", b, right_cov, b, optimize=True))  # fmt: skip


def _spread(left: Array, left_cov: Array, right: Array, right_cov: Array) -> Array:
    """[n, m] variance of the products of the factors."""
    k = left.shape[1]
    outer_left = (left[:, :, None] * left[:, None, :]).reshape(len(left), k * k)
    outer_right = (right[:, :, None] * right[:, None, :]).reshape(len(right), k * k)
    flat_left, flat_right = left_cov.reshape(len(left), -1), right_cov.reshape(len(right), -1)
    spread: Array = outer_left @ flat_right.T + flat_left @ (outer_right + flat_right).T
    return spread
