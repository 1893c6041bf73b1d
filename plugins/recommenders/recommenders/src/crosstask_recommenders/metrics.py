"""How good scores are, for batches of users with unequal numbers of items; ties count as if broken at random."""

from __future__ import annotations

import torch
from torch import Tensor

from crosstask.errors import DataError, OptionError


def _masked(scores: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
    if scores.shape != targets.shape or (mask is not None and mask.shape != scores.shape):
        told = "" if mask is None else f" and mask {list(mask.shape)}"
        raise DataError(f"scores {list(scores.shape)} against {list(targets.shape)}{told}: the shapes must be equal")
    return torch.ones_like(scores, dtype=torch.bool) if mask is None else mask


def _ranking(scores: Tensor, targets: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """(scores as floating-point numbers, what is real). DataError unless they can be put in an order."""
    real = _masked(scores, targets, mask)
    if scores.ndim != 2:
        raise DataError(f"scores and targets must be [B, K], got {list(scores.shape)}")
    made = scores if scores.is_floating_point() else scores.to(torch.get_default_dtype())
    if bool((torch.isnan(made) & real).any()):
        raise DataError("scores that are NaN have no order")
    return made, real


def rmse(predictions: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """Root of the mean squared error over all that `mask` leaves."""
    real = _masked(predictions, targets, mask)
    return (predictions - targets)[real].square().mean().sqrt()


def mae(predictions: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute error over all that `mask` leaves."""
    real = _masked(predictions, targets, mask)
    return (predictions - targets)[real].abs().mean()


def auc(scores: Tensor, relevant: Tensor, mask: Tensor | None = None) -> Tensor:
    """Of each user [B]: how often an item that is relevant has a higher score than one that is not; a tie counts half.

    `scores` [B, K], `relevant` [B, K] (more than 0 is relevant). NaN for a user without one of both.
    """
    scores, real = _ranking(scores, relevant, mask)
    good = (relevant > 0) & real
    bad = real & ~good
    above, same = scores[:, :, None] > scores[:, None, :], scores[:, :, None] == scores[:, None, :]
    won = (above + 0.5 * same) * (good[:, :, None] & bad[:, None, :])
    return won.sum((1, 2)) / (good.sum(1) * bad.sum(1))


def _k(k: int) -> int:
    if k < 1:
        raise OptionError(f"k is a number of items, at least 1, got {k}")
    return k


def ndcg_at_k(scores: Tensor, relevance: Tensor, k: int = 10, mask: Tensor | None = None) -> Tensor:
    """Normalised discounted cumulative gain of each user [B] (Järvelin & Kekäläinen 2002): linear gains, discount
    1 / log2(rank + 1). Items of one score share the mean gain of their places. NaN for a user without relevance.
    DataError for a relevance below 0, with which the best order is not the greatest gain.
    """
    scores, real = _ranking(scores, relevance, mask)
    if bool(((relevance < 0) & real).any()):
        raise DataError("NDCG is of relevances that are 0 or more")
    places = torch.arange(scores.shape[1], device=scores.device)
    discount = torch.where(places < _k(k), 1 / torch.log2(places.to(scores.dtype) + 2), 0.0)
    gains = torch.where(real, relevance.to(scores.dtype), 0.0)
    hidden = scores.masked_fill(~real, -torch.inf)
    ranked, order = hidden.sort(dim=1, descending=True)
    first = torch.cat([torch.ones_like(ranked[:, :1], dtype=torch.bool), ranked[:, 1:] != ranked[:, :-1]], dim=1)
    group = first.cumsum(1) - 1
    shape = scores.new_zeros(scores.shape)
    size = shape.scatter_add(1, group, torch.ones_like(scores))
    shared = shape.scatter_add(1, group, discount.expand_as(scores)) / size.clamp_min(1)
    gained = (gains.gather(1, order) * shared.gather(1, group)).sum(1)
    best = (gains.sort(dim=1, descending=True).values * discount).sum(1)
    return torch.where(best > 0, gained / best, torch.nan)


def hit_at_k(scores: Tensor, relevant: Tensor, k: int = 10, mask: Tensor | None = None) -> Tensor:
    """Of each user [B] whether one of the relevant items is among the `k` of the highest scores; where items of one
    score go over the edge, how probable that is. NaN for a user without a relevant item.
    """
    scores, real = _ranking(scores, relevant, mask)
    k = min(_k(k), scores.shape[1])
    if not k:
        return scores.new_full((len(scores),), torch.nan)
    good = (relevant > 0) & real
    hidden = scores.masked_fill(~real, -torch.inf)
    edge = hidden.sort(dim=1, descending=True).values[:, k - 1, None]
    above, tied = (hidden > edge) & real, (hidden == edge) & real
    room, ties, hits = k - above.sum(1), tied.sum(1), (tied & good).sum(1)
    missed = torch.ones(len(scores), dtype=torch.float64)
    for drawn in range(int(room.clamp_max(ties).max()) if len(scores) else 0):  # without replacement: no relevant one
        left = (ties - drawn).clamp_min(1)
        missed = torch.where(drawn < room, missed * ((ties - hits - drawn) / left).clamp(0, 1), missed)
    found = torch.where((above & good).any(1), 1.0, 1 - missed)
    return torch.where(good.any(1), found, torch.nan).to(scores.dtype)
