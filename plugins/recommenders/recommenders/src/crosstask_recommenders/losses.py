"""Losses of implicit feedback: what a user has taken against what was drawn from the rest."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from crosstask.errors import DataError


def _negatives(positive: Tensor, negative: Tensor) -> Tensor:
    """Negatives [..., M] of each positive [...]; one of each may come without the last dimension."""
    spread = negative[..., None] if negative.shape == positive.shape else negative
    if spread.shape[:-1] != positive.shape:
        raise DataError(
            f"negatives {list(negative.shape)} of positives {list(positive.shape)}: they must have this shape "
            "or have one dimension more"
        )
    return spread


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    return values.mean() if mask is None else torch.where(mask, values, 0).sum() / mask.sum().clamp_min(1)


def bpr_loss(positive: Tensor, negative: Tensor, mask: Tensor | None = None) -> Tensor:
    """Bayesian personalised ranking: the mean of -log σ(positive - negative) (Rendle et al. 2009, UAI, section 4.1).

    Scores `positive` [...] and `negative` [...] or [..., M]; `mask` [...] leaves positives out. The penalty of the
    weights is the optimiser's.
    """
    spread = _negatives(positive, negative)
    return _mean(functional.softplus(spread - positive[..., None]).mean(-1), mask)


def sampled_negative_loss(positive: Tensor, negative: Tensor, mask: Tensor | None = None) -> Tensor:
    """Logistic loss of a positive and the mean of those of its negatives: -log σ(p) - mean log σ(-n) (as in Mikolov et
    al. 2013, equation 4, with the mean for the sum).
    """
    spread = _negatives(positive, negative)
    return _mean(functional.softplus(-positive) + functional.softplus(spread).mean(-1), mask)
