"""The `mmd` alignment."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from crosstask.errors import OptionError
from crosstask.options import component, option
from crosstask_alignment.contract import Alignment
from crosstask_alignment.discrepancies import mmd
from crosstask_alignment.domains import mean_over_pairs


@component
class MMD(Alignment):
    """The squared maximum mean discrepancy of the features of two domains, with a mean of Gaussian kernels; of several
    domains the mean over all pairs.

    By default the bandwidths are 1/4, 1/2, 1, 2 and 4 times the median distance between the rows of a batch: whatever
    the scale of the features, some kernel gives a gradient, and features gain nothing by shrinking. It has no weights
    of its own.

    Source: Gretton et al. 2012, *A Kernel Two-Sample Test*, equations 3 and 5; several kernels as in Long et al. 2015,
    *Learning Transferable Features with Deep Adaptation Networks*.
    """

    least_rows: ClassVar[int] = 2

    bandwidths: tuple[float, ...] = option((), gt=0, help="standard deviations of the kernels; by the median if none")
    unbiased: bool = option(True, help="the U-statistic, which is 0 in the mean where there is nothing to align")

    def __attrs_post_init__(self) -> None:
        if not all(width < float("inf") for width in self.bandwidths):
            raise OptionError(f"MMD: bandwidths must be finite, got {self.bandwidths}")

    def misalignment(self, features: Tensor, domain: Tensor, outputs: Tensor | None, progress: float) -> Tensor:
        def apart(x: Tensor, y: Tensor) -> Tensor:
            return mmd(x, y, self.bandwidths or None, self.unbiased)

        with torch.autocast(features.device.type, enabled=False):
            return mean_over_pairs(apart, features, domain)
