"""Quantiles of each feature, the same in every domain."""

from __future__ import annotations

import torch
from torch import Tensor

from crosstask.options import component, option
from crosstask_alignment import Alignment, mean_over_pairs


@component
class ExampleAlignment(Alignment):
    """The mean squared difference between two domains' quantiles, feature by feature."""

    levels: int = option(9, ge=1, help="how many quantiles, evenly between 0 and 1")

    def misalignment(self, features: Tensor, domain: Tensor, outputs: Tensor | None, progress: float) -> Tensor:
        rows = features.float() if features.itemsize < 4 else features
        levels = torch.linspace(0, 1, self.levels + 2, dtype=rows.dtype, device=rows.device)[1:-1]

        def apart(x: Tensor, y: Tensor) -> Tensor:
            return (x.quantile(levels, dim=0) - y.quantile(levels, dim=0)).square().mean()

        return mean_over_pairs(apart, rows, domain)
