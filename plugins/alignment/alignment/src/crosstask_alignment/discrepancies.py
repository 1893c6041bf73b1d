"""The maximum mean discrepancy between two samples (Gretton et al. 2012)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crosstask.errors import DataError, of_kind
from crosstask.options import structure

MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Bandwidths by default, as multiples of the median distance between the rows of both samples."""


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances [N, M] between rows [N, F] and [M, F]; never negative.

    |x|² + |y|² - 2 xy loses digits where rows are far from the origin and near one another: it is taken about the mean
    of `y`, and what is left below 0 is 0. Unlike `torch.cdist` it can be differentiated twice and be vmapped.
    """
    centre = y.detach().mean(dim=0)
    x, y = x - centre, y - centre
    return torch.addmm((x.square().sum(1)[:, None] + y.square().sum(1)), x, y.mT, alpha=-2).clamp_min(0)


def mmd(x: Tensor, y: Tensor, bandwidths: float | Sequence[float] | None = None, unbiased: bool = False) -> Tensor:
    """The squared maximum mean discrepancy of rows x [N, F] and y [M, F], a scalar with a graph.

    The kernel is the mean of Gaussians exp(-d² / (2 s²)) over `bandwidths` s; by default these are `MULTIPLES` of the
    median distance between all rows, which is a constant to the gradient. With several bandwidths some give a gradient
    however far apart the samples are; with the median features cannot lower the value by shrinking.

    Biased (equation 5 of Gretton et al. 2012): at least 0, and above 0 for two samples of one distribution, the more so
    the smaller they are. `unbiased` (equation 3, the U-statistic): 0 in the mean for two of one distribution, so it may
    be negative; it needs two rows of each.

    Taken in float32 for lower precisions. DataError for other shapes than [N, F], [M, F], too few rows, or a bandwidth
    that is not positive and finite.
    """
    x, y = rows_of("x", x), rows_of("y", y)
    least = 2 if unbiased else 1
    for name, rows in (("x", x), ("y", y)):
        if len(rows) < least:
            kind = "unbiased " if unbiased else ""
            raise DataError(f"the {kind}mmd needs at least {least} rows of each sample, got {len(rows)} of {name}")
    if x.shape[1] != y.shape[1]:
        raise DataError(f"mmd: rows of {x.shape[1]} features cannot be compared with rows of {y.shape[1]}")
    chosen = _checked(bandwidths)
    with torch.autocast(x.device.type, enabled=False):
        n, m = len(x), len(y)
        both = torch.cat([x, y])
        own = torch.eye(n + m, dtype=torch.bool, device=x.device)
        distances = squared_distances(both, both).masked_fill(own, 0.0)  # exactly: the median takes what is above 0
        if chosen is None:
            widths = _median(distances) * torch.tensor(MULTIPLES, dtype=x.dtype, device=x.device)
        else:
            widths = torch.tensor(chosen, dtype=x.dtype, device=x.device)
        kernel = torch.zeros_like(distances)
        for width in widths:
            kernel = kernel + torch.exp(distances / (-2 * width.square()))
        kernel = (kernel / len(widths)).masked_fill(own, 0.0)
        within_x, within_y, between = kernel[:n, :n].sum(), kernel[n:, n:].sum(), kernel[:n, n:].mean()
        if unbiased:
            return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * between
        return (within_x + n) / n**2 + (within_y + m) / m**2 - 2 * between  # a row is like itself: 1


def rows_of(name: str, features: Tensor) -> Tensor:
    """Features [N, …] as rows [N, F] of at least single precision. DataError for what is none."""
    of_kind(features, Tensor, f"features {name}")
    if features.ndim < 2 or not features.is_floating_point():
        raise DataError(
            f"features {name} must be floating-point rows [N, F], got {features.dtype} of shape {tuple(features.shape)}"
        )
    made = features.flatten(1)
    return made.float() if made.dtype in (torch.float16, torch.bfloat16) else made


def _checked(bandwidths: float | Sequence[float] | None) -> tuple[float, ...] | None:
    if bandwidths is None:
        return None
    given = (bandwidths,) if isinstance(bandwidths, int | float) else bandwidths
    found: tuple[float, ...] = structure(given, tuple[float, ...], "bandwidths")
    if not found or not all(0 < width < float("inf") for width in found):
        raise DataError(f"bandwidths must be finite positive numbers, at least one, got {found}")
    return found


def _median(distances: Tensor) -> Tensor:
    """The median distance of different rows; 1 where all are the same. No value is read: a GPU is not waited for."""
    known = distances.detach()
    apart = torch.where(known > 0, known, torch.nan)
    return torch.nan_to_num(apart.nanmedian(), nan=1.0).sqrt()
