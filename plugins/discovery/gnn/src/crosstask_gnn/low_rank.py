"""Completion of a matrix by one of low rank with intercepts, its rank and all strengths weighed by the evidence."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from crosstask_gnn.pairs import Array, Mask, Pairs


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
    return low_ranks([pairs], [prior], rank=rank, starts=starts, rounds=rounds, seed=seed)[0]


def low_ranks(
    parts: Sequence[Pairs], priors: Sequence[Array | None] | None = None, *, rank: int = 8, starts: int = 3,
    rounds: int = 150, seed: int = 0,
) -> list[Completed]:  # fmt: skip
    """What `low_rank` says of each, all of the same tasks (the folds of a cross-validation, say): fitted together."""
    found: dict[int, Completed] = {}
    waiting: dict[int, list[tuple[int, Array, _Fit]]] = {}
    for number, (pairs, prior) in enumerate(zip(parts, priors or [None] * len(parts), strict=True)):
        seen = pairs.measured
        base = np.zeros(seen.shape) if prior is None else prior
        if seen.sum() < 3:
            level = float((pairs.known - base)[seen].mean()) if seen.any() else 0.0
            found[number] = Completed(base + level, np.full(seen.shape, 0.04), 0.04)
            continue
        rest = np.where(seen, pairs.known - base, 0.0)
        stated = np.where(seen, np.nan_to_num(pairs.error) ** 2, 0.0)
        # of large matrices the last digits are not worth the time
        few, rounds = (1, min(rounds, 30)) if pairs.count > 200 else (starts, rounds)
        most = max(1, min(rank, *(int(m.any(axis).sum()) - 1 for axis, m in enumerate((seen, seen)))))
        rng = np.random.default_rng(seed)
        own = [_Fit.begun(rest, seen, stated, most, rng, wide=bool(start % 2)) for start in range(few)]
        waiting.setdefault(most, []).extend((number, base, fit) for fit in own)
    done: dict[int, list[tuple[Array, Completed]]] = {}
    for together in waiting.values():
        for (number, base, _), fit in zip(together, _fitted([fit for *_, fit in together], rounds), strict=True):
            done.setdefault(number, []).append((base, fit))
    for number, each in done.items():
        fits = [fit for _, fit in each]
        likely = np.exp([fit.bound - max(fit.bound for fit in fits) for fit in fits])
        shares = likely / likely.sum()
        mean = np.sum([share * fit.mean for share, fit in zip(shares, fits, strict=True)], axis=0)
        variance = np.sum(
            [share * (fit.variance + (fit.mean - mean) ** 2) for share, fit in zip(shares, fits, strict=True)], axis=0
        )
        found[number] = Completed(each[0][0] + mean, variance, float(shares @ [fit.noise for fit in fits]))
    return [found[number] for number in range(len(parts))]


@attrs.frozen(eq=False)
class _Fit:
    """Where a fit begins: `values` [n, m], `told` [n, m] (1 where there is one, else 0), the variances `stated` [n, m],
    and `scale`, `noise` and `mean` [1] of the values; factors [n, k] and [m, k].
    """

    values: Array
    told: Array
    stated: Array
    scale: Array
    noise: Array
    mean: Array
    left: Array
    right: Array

    @classmethod
    def begun(
        cls, values: Array, seen: Mask, stated: Array, rank: int, rng: np.random.Generator, *, wide: bool
    ) -> _Fit:
        scale = float(values[seen].std()) or 1e-3
        left, right = _start(values, seen, rank, rng, wide=wide)
        own = np.array([scale, 0.5 * scale**2, values[seen].mean()])
        return cls(values, seen.astype(np.float64), stated, own[0:1], own[1:2], own[2:3], left, right)


def _fitted(fits: Sequence[_Fit], rounds: int) -> list[Completed]:
    """Each goes on until its own product stands still, whatever the others do."""
    fields = [np.stack(column) for column in zip(*(attrs.astuple(fit, recurse=False) for fit in fits), strict=True)]
    values, told, stated, scale, noise, mean, left, right = fields
    count, n, m = values.shape
    rank = left.shape[2]
    scale, noise, mean = (x[..., None] for x in (scale, noise, mean))
    square, eye = scale**2, np.eye(rank)
    rows, columns = np.zeros((count, n, 1)), np.zeros((count, 1, m))
    rows_var, columns_var = np.repeat(0.1 * square, n, 1), np.repeat(0.1 * square, m, 2)
    row_prior, column_prior = square, square
    left_cov = np.broadcast_to(0.1 * eye, (count, n, rank, rank))
    right_cov = np.broadcast_to(0.01 * square[..., None] * eye, (count, m, rank, rank))
    relevance = np.maximum((right**2).mean(1, keepdims=True), 1e-4 * square)
    product = left @ right.swapaxes(1, 2)
    going = np.arange(count)
    found: dict[int, Completed] = {}
    for number in range(rounds):
        weights = told / (noise + stated)
        before = product
        centred = values - mean - columns - before
        precision = weights.sum(2, keepdims=True) + 1 / row_prior
        rows, rows_var = (weights * centred).sum(2, keepdims=True) / precision, 1 / precision
        centred = values - mean - rows - before
        precision = weights.sum(1, keepdims=True) + 1 / column_prior
        columns, columns_var = (weights * centred).sum(1, keepdims=True) / precision, 1 / precision
        rest = (weights * (values - rows - columns - before)).sum((1, 2), keepdims=True)
        mean = rest / weights.sum((1, 2), keepdims=True)
        centred = values - mean - rows - columns
        left, left_cov = _factor(centred, weights, right, right_cov, np.ones((1, 1, rank)))
        right, right_cov = _factor(centred.swapaxes(1, 2), weights.swapaxes(1, 2), left, left_cov, relevance)
        left, left_cov, right, right_cov = _rotated(left, left_cov, right, right_cov)
        spread_right = np.diagonal(right_cov, axis1=2, axis2=3).sum(1)[:, None]
        relevance = np.maximum((right**2).mean(1, keepdims=True) + spread_right / m, 1e-8 * square)
        if number >= 5:  # the effects first
            row_prior = np.maximum(_mean_where(rows**2 + rows_var, told.max(2, keepdims=True)), 1e-8 * square)
            column_prior = np.maximum(_mean_where(columns**2 + columns_var, told.max(1, keepdims=True)), 1e-8 * square)
        product = left @ right.swapaxes(1, 2)
        uncertain = rows_var + columns_var + _spread(left, left_cov, right, right_cov)
        squares = (values - mean - rows - columns - product) ** 2 + uncertain
        share = told / (noise + stated) ** 2
        # What is left beyond what the measurements state of themselves, with a weak prior at a tenth of the variance.
        weak = 0.2 * share.max((1, 2), keepdims=True)
        noise = (share * (squares - stated)).sum((1, 2), keepdims=True) + weak * 0.1 * square
        noise = np.maximum(noise / (share.sum((1, 2), keepdims=True) + weak), np.maximum(1e-6 * square, 1e-12))
        still = (np.abs(product - before).max((1, 2)) < 1e-4 * scale[:, 0, 0]) & (number > 10)
        still |= number == rounds - 1
        if not still.any():
            continue
        bound = -0.5 * (told * (np.log(noise + stated) + squares / (noise + stated))).sum((1, 2))
        bound -= _divergence(left, left_cov, np.ones((1, 1, rank))) + _divergence(right, right_cov, relevance)
        bound -= _divergence(rows, rows_var[..., None], row_prior)
        bound -= _divergence(columns.swapaxes(1, 2), columns_var.swapaxes(1, 2)[..., None], column_prior)
        unsure = uncertain + np.where(told.any(2, keepdims=True), 0, row_prior - rows_var)
        unsure = unsure + np.where(told.any(1, keepdims=True), 0, column_prior - columns_var) + noise
        says = mean + rows + columns + product
        for at in np.flatnonzero(still):
            found[int(going[at])] = Completed(says[at], unsure[at], float(noise[at, 0, 0]), float(bound[at]))
        on = ~still
        going = going[on]
        if not len(going):
            break
        values, told, stated, scale, square, noise, mean = (
            x[on] for x in (values, told, stated, scale, square, noise, mean)
        )
        left, left_cov, right, right_cov, product = (x[on] for x in (left, left_cov, right, right_cov, product))
        row_prior, column_prior, relevance, columns = (x[on] for x in (row_prior, column_prior, relevance, columns))
    return [found[number] for number in range(count)]


def _mean_where(values: Array, there: Array) -> Array:
    """[B, 1, 1] of the values where `there` is 1, and not 0."""
    mean: Array = (there * values).sum((1, 2), keepdims=True) / there.sum((1, 2), keepdims=True)
    return mean


def _start(values: Array, seen: Mask, rank: int, rng: np.random.Generator, *, wide: bool) -> tuple[Array, Array]:
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
    """Posterior means [B, n, k] and covariances [B, n, k, k] of one side's factors, given the other side's."""
    count, n, k = len(weights), weights.shape[1], other.shape[2]
    moments = (other[..., :, None] * other[..., None, :] + other_cov).reshape(count, -1, k * k)
    precision = (weights @ moments).reshape(count, n, k, k) + np.eye(k) / prior[..., None]
    covariance = np.linalg.inv(precision)
    found = (covariance @ ((weights * centred) @ other)[..., None])[..., 0]
    return found, covariance


def _divergence(means: Array, covariances: Array, prior: Array) -> Array:
    """[B] of normal distributions from independent ones about 0 with the variances `prior` [B, 1, k], summed (Kullback,
    Leibler).
    """
    squares = means**2 + np.diagonal(covariances, axis1=2, axis2=3)
    inner = (squares / prior - 1 + np.log(prior)).sum((1, 2)) - np.linalg.slogdet(covariances)[1].sum(1)
    half: Array = 0.5 * inner
    return half


def _rotated(left: Array, left_cov: Array, right: Array, right_cov: Array) -> tuple[Array, Array, Array, Array]:
    """The same products with the left side's second moment the identity and the right side's diagonal: the direction
    in which the bound rises slowly otherwise (Ilin, Raiko 2010, section 4.2).
    """
    moment = (left.swapaxes(1, 2) @ left + left_cov.sum(1)) / left.shape[1]
    values, vectors = np.linalg.eigh(moment)
    values = np.maximum(values, 1e-12)[:, None]
    root, inverse = vectors * np.sqrt(values), vectors / np.sqrt(values)
    other = root.swapaxes(1, 2) @ (right.swapaxes(1, 2) @ right + right_cov.sum(1)) @ root
    turn = np.linalg.eigh(other)[1][..., ::-1]
    a, b = inverse @ turn, root @ turn
    return left @ a, _turned(left_cov, a), right @ b, _turned(right_cov, b)


def _turned(covariances: Array, by: Array) -> Array:
    """[B, n, k, k] of what is multiplied by [B, k, k] from the right."""
    turned: Array = by.swapaxes(1, 2)[:, None] @ covariances @ by[:, None]
    return turned


def _spread(left: Array, left_cov: Array, right: Array, right_cov: Array) -> Array:
    """[B, n, m] variance of the products of the factors."""
    count, k = len(left), left.shape[2]
    outer_left = (left[..., :, None] * left[..., None, :]).reshape(count, -1, k * k)
    outer_right = (right[..., :, None] * right[..., None, :]).reshape(count, -1, k * k)
    flat_left, flat_right = left_cov.reshape(count, -1, k * k), right_cov.reshape(count, -1, k * k)
    flat_right = flat_right.swapaxes(1, 2)
    spread: Array = outer_left @ flat_right + flat_left @ (outer_right.swapaxes(1, 2) + flat_right)
    return spread
