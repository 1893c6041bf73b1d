"""No balancing."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from crosstask import component
from crosstask.learning.gradients import TaskGradients
from crosstask.points.balancer import Balancer


@component
class Equal(Balancer):
    """Weight 1 for every loss: the plain sum, what balancers must beat (Xin et al. 2022, arXiv:2209.11379)."""

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"permutation_invariant", "scale_equivariant", "linear_under_scaling"}
    )

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        return torch.ones_like(losses)
