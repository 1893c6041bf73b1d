"""Linear maps between what different models see, in closed form."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from crosstask.errors import DataError

STRENGTHS = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties that are tried, relative to the largest eigenvalue of the features' covariance."""

FEWEST = 4
"""Samples without which no map is fitted."""


@attrs.frozen(eq=False)
class Stitch:
    """outputs = features @ weight.T + bias, float64. `carried` [K]: the share of each output's variance that the map
    predicts on samples it was not fitted to (leaving out each one in turn), in [0, 1].
    """

    weight: Tensor
    bias: Tensor
    carried: Tensor


def stitch(features: Tensor, outputs: Tensor) -> Stitch:
    """The ridge regression from features [N, F] to outputs [N, K] whose penalty does best with each sample left out.

    For a linear head h on a model with features g, regressing on h(g) is the same as stitching the features (regressing
    on g; Lenc & Vedaldi 2015, section 4) and putting the head behind: ridge is linear in its targets.
    """
    if len(features) < FEWEST:
        raise DataError(f"stitching two models needs at least {FEWEST} inputs that both have seen, got {len(features)}")
    if features.is_complex() or outputs.is_complex():
        raise DataError(
            "features of complex numbers cannot be stitched: let the trunk end in real ones (their sizes, say)"
        )
    x, y = (t.detach().to("cpu", torch.float64).flatten(1) for t in (features, outputs))
    count, mean_x, mean_y = len(x), x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    projected = left.T @ y
    spread = y.square().sum(0)
    alone = spread * (count / (count - 1)) ** 2  # of each sample from the mean of the others
    best: tuple[float, Tensor, Tensor] | None = None
    for strength in STRENGTHS:
        shrunk = values.square() / (values.square() + strength * values.square().max().clamp_min(1e-12))
        residual = y - left @ (shrunk[:, None] * projected)
        leverage = 1 / count + (left.square() * shrunk).sum(1)
        missed = (residual / (1 - leverage).clamp_min(1e-6)[:, None]).square().sum(0)
        total = float((missed / alone.clamp_min(1e-12)).sum())
        if best is None or total < best[0]:
            best = (total, shrunk, missed)
    assert best is not None
    _, shrunk, missed = best
    inverse = torch.where(values > 0, shrunk / values.clamp_min(1e-300), torch.zeros_like(values))
    weight = (right.T @ (inverse[:, None] * projected)).T
    carried = torch.where(alone > 0, 1 - missed / alone.clamp_min(1e-300), torch.ones_like(alone)).clamp(0, 1)
    return Stitch(weight, mean_y - weight @ mean_x, carried)
