"""The `coral` alignment."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from crosstask.errors import DataError
from crosstask.options import component, option
from crosstask_alignment.contract import Alignment
from crosstask_alignment.discrepancies import rows_of
from crosstask_alignment.domains import mean_over_pairs


def coral_loss(x: Tensor, y: Tensor) -> Tensor:
    """|C_x - C_y|² / (4 d²), with the covariances C [d, d] of rows x [N, d] and y [M, d] and Frobenius' norm; a scalar
    with a graph (Sun and Saenko 2016, equations 1 to 3).

    Taken in float32 for lower precisions. DataError for other shapes or fewer than two rows.
    """
    x, y = rows_of("x", x), rows_of("y", y)
    for name, rows in (("x", x), ("y", y)):
        if len(rows) < 2:
            raise DataError(f"coral: a covariance needs at least 2 rows, got {len(rows)} of {name}")
    if x.shape[1] != y.shape[1]:
        raise DataError(f"coral: rows of {x.shape[1]} features cannot be compared with rows of {y.shape[1]}")
    with torch.autocast(x.device.type, enabled=False):
        return (_covariance(x) - _covariance(y)).square().sum() / (4 * x.shape[1] ** 2)


def _covariance(rows: Tensor) -> Tensor:
    # The mean is taken off first: the paper's form, without it, loses all digits where features are far from 0.
    apart = rows - rows.mean(0)
    return apart.mT @ apart / (len(rows) - 1)


@component
class CORAL(Alignment):
    """The squared difference of the covariances of two domains' features; of several domains the mean over all pairs.

    It has no weights and draws nothing. Means may differ: with `means` their squared distance / (4 d) is added, which
    is not in the paper.

    Source: Sun, Saenko 2016, *Deep CORAL: Correlation Alignment for Deep Domain Adaptation*, equation 1.
    """

    least_rows: ClassVar[int] = 2

    means: bool = option(False, help="align the means, too")

    def misalignment(self, features: Tensor, domain: Tensor, outputs: Tensor | None, progress: float) -> Tensor:
        def apart(x: Tensor, y: Tensor) -> Tensor:
            found = coral_loss(x, y)
            if not self.means:
                return found
            return found + (x.mean(0) - y.mean(0)).square().mean() / 4

        return mean_over_pairs(apart, rows_of("of the batch", features), domain)
