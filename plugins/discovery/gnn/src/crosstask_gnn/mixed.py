"""Additive effects plus ridge regression on the estimates, all of it weighed by the evidence itself."""

from __future__ import annotations

import attrs
import numpy as np
import torch
from torch import Tensor

from crosstask_gnn.pairs import Array, Pairs, mean_score, standardised, within_targets
from crosstask_gnn.soft_impute import soft_impute

GROUPS = ("target", "source", "mean z", "z", "target features", "source features")


@attrs.frozen(eq=False)
class Variances:
    """What a linear mixed model takes for granted: prior variance of each group of effects, and of what is left."""

    groups: Array
    noise: float


@attrs.frozen(eq=False)
class Fitted:
    """`mean` [n, n], and `variance` [n, n] of a coefficient measured there, its own noise included."""

    mean: Array
    variance: Array
    variances: Variances


@attrs.frozen(eq=False)
class Design:
    """What each pair is described by: columns for itself [n, n, p], for its target [n, q] and its source [n, r]."""

    score: Array
    pair: Array
    target: Array
    source: Array

    @classmethod
    def of(cls, pairs: Pairs, components: int = 4) -> Design:
        """z-scores of the estimates inside each target, their mean, and this mean as a matrix of low rank leaves it: an
        estimator's noise differs from pair to pair, what it means does not. Of a target, how large and how far apart
        its estimates are; of a source, its mean z-scores; of both, the principal components of the tasks' features.
        """
        z = within_targets(pairs.estimates)
        level, spread = moments(pairs.estimates)
        shared = principal(pairs.nodes, components)
        places = max(1, pairs.count - 1)
        score = mean_score(pairs.estimates)
        smooth = soft_impute(Pairs.of(score))
        return cls(
            score=np.stack([standardised(score, 0), 0.5 * standardised(smooth, 0)], axis=2),
            pair=np.moveaxis(z, 0, -1) / max(1.0, np.sqrt(len(z))),
            target=_scaled(np.hstack([standardised(level, 1).T, standardised(spread, 1).T, shared])),
            source=_scaled(np.hstack([standardised(z.sum(2) / places, 1).T, shared])),
        )


def moments(estimates: Array) -> tuple[Array, Array]:
    """([k, n], [k, n]): mean and standard deviation of each estimator over the sources of a target; NaN without any."""
    seen = ~np.isnan(estimates)
    count = seen.sum(1)
    total = np.where(seen, estimates, 0).sum(1)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    centred = np.where(seen, estimates - np.nan_to_num(mean)[:, None, :], 0)
    spread = np.sqrt((centred**2).sum(1) / np.maximum(count, 1))
    return mean, np.where(count > 1, spread, np.nan)


def principal(nodes: Array, components: int) -> Array:
    """[n, c]: the first principal components of standardised features, the first of unit variance."""
    z = standardised(nodes, axis=0)
    z = z[:, np.abs(z).max(0, initial=0) > 0]
    if not z.shape[1]:
        return np.empty((len(nodes), 0))
    left, size, _ = np.linalg.svd(z, full_matrices=False)
    scores = (left * size)[:, : min(components, int((size > 1e-9 * size[0]).sum()))]
    shared: Array = scores / scores[:, 0].std()
    return shared


def mixed(
    pairs: Pairs, variances: Variances | None = None, design: Design | None = None, *, spread: bool = True
) -> Fitted:
    """Posterior of coefficient = mean + target's effect + source's effect + weights * description of the pair.

    Effects and weights are normal with one variance per group (`GROUPS`), the rest is noise with what a measurement
    states as its standard error on top. The variances maximise the likelihood of what was measured (empirical Bayes):
    with few measurements nearly everything is shrunk to what the estimators' mean says, with many little is. Without
    `spread` the effects' own uncertainty, which takes the longest to compute, is left out of the variance.
    """
    design = design or Design.of(pairs)
    places = np.argwhere(pairs.measured)
    n = pairs.count
    if len(places) < 3:
        variances = variances or Variances(np.array([0.04, 0.01, 0.01, 0.0, 0.0, 0.0]), 0.04)
    values = pairs.known[tuple(places.T)]
    stated = np.nan_to_num(pairs.error[tuple(places.T)])
    centre = float(values.mean()) if len(values) else 0.0
    if variances is None:
        variances = _most_likely(design, places, values - centre, stated)
    sizes = [n, n, design.score.shape[2], design.pair.shape[2], design.target.shape[1], design.source.shape[1]]
    prior = np.concatenate([[1.0], np.repeat(np.maximum(variances.groups, 1e-8), sizes)])
    rows = _rows(design, places)
    weights = 1.0 / (variances.noise + stated**2)
    precision = rows.T @ (rows * weights[:, None]) + np.diag(1.0 / prior)
    covariance = np.linalg.inv(precision) if spread else None
    explained = rows.T @ (weights * (values - centre))
    effects = np.linalg.solve(precision, explained) if covariance is None else covariance @ explained
    column, row, slopes = effects[1 : n + 1], effects[n + 1 : 2 * n + 1], effects[2 * n + 1 :]
    score, pair, target, source = np.split(slopes, np.cumsum(sizes[2:-1]))
    mean = centre + effects[0] + (column + design.target @ target) + (row + design.source @ source)[:, None]
    mean = mean + design.score @ score + design.pair @ pair
    uncertain = np.zeros_like(mean) if covariance is None else _variance(design, covariance)
    return Fitted(mean, uncertain + variances.noise, variances)


def _scaled(features: Array) -> Array:
    """So that a group counts the same however many features it has."""
    return features / max(1.0, np.sqrt(features.shape[1]))


def _rows(design: Design, places: Array) -> Array:
    source, target = places.T
    one = np.eye(len(design.target))
    parts = [np.ones((len(places), 1)), one[target], one[source]]
    parts += [design.score[source, target], design.pair[source, target], design.target[target], design.source[source]]
    return np.hstack(parts)


def _variance(design: Design, covariance: Array) -> Array:
    """[n, n] variance of the mean of every pair: the quadratic form of its description, without building n^2 rows."""
    n = len(design.target)
    p = design.score.shape[2] + design.pair.shape[2]
    pair = np.concatenate([design.score, design.pair], axis=2)
    ends = 2 * n + 1
    # A target's own description (intercept, effect, features) and a source's, as rows over all effects.
    t = np.hstack([np.ones((n, 1)), np.eye(n), np.zeros((n, n + p)), design.target, np.zeros_like(design.source)])
    s = np.hstack([np.zeros((n, n + 1)), np.eye(n), np.zeros((n, p)), np.zeros_like(design.target), design.source])
    ct, cs = covariance @ t.T, covariance @ s.T
    total = (t * ct.T).sum(1)[None, :] + (s * cs.T).sum(1)[:, None] + 2 * s @ ct
    slopes = slice(ends, ends + p)
    total = total + 2 * (pair * (ct[slopes].T[None] + cs[slopes].T[:, None])).sum(2)
    total = total + np.einsum("ijp,pq,ijq->ij", pair, covariance[slopes, slopes], pair, optimize=True)
    positive: Array = np.maximum(total, 0.0)
    return positive


def _most_likely(design: Design, places: Array, values: Array, stated: Array, most: int = 250) -> Variances:
    """Variances of largest marginal likelihood, with a weak prior that keeps them from nothing and from infinity."""
    if len(places) > most:  # enough for seven numbers
        chosen = np.random.default_rng(0).permutation(len(places))[:most]
        places, values, stated = places[chosen], values[chosen], stated[chosen]
    source, target = places.T
    parts = [
        (target[:, None] == target).astype(np.float64),
        (source[:, None] == source).astype(np.float64),
        *(
            x @ x.T
            for x in (
                design.score[source, target],
                design.pair[source, target],
                design.target[target],
                design.source[source],
            )
        ),
    ]
    grams, y = torch.tensor(np.stack(parts)), torch.tensor(values)
    extra = torch.tensor(stated**2)
    scale = max(float(values.var()), 1e-6)
    typical = torch.tensor(scale) * torch.tensor([0.4, 0.05, 0.3, 0.01, 0.1, 0.01, 0.2], dtype=torch.float64)
    logs = typical.log().clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([logs], max_iter=40, line_search_fn="strong_wolfe", tolerance_change=1e-5)

    def loss() -> Tensor:
        optimizer.zero_grad()
        sizes = logs.clamp(-18, 6).exp()
        kernel = torch.einsum("g,gab->ab", sizes[:-1], grams) + scale  # the mean's own uncertainty
        kernel = kernel + torch.diag(extra + sizes[-1] + 1e-8)
        factor = torch.linalg.cholesky(kernel)
        fit = torch.linalg.solve_triangular(factor, y[:, None], upper=False).square().sum()
        total = fit / 2 + factor.diagonal().log().sum() + ((logs - typical.log()) ** 2).sum() / 2
        total.backward()
        return total

    optimizer.step(loss)
    found = logs.detach().clamp(-18, 6).exp().numpy()
    return Variances(found[:-1], float(found[-1]))
