"""Task gradients weighed by their lengths."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from crosstask.learning.gradients import TaskGradients
from crosstask.options import component, option
from crosstask.points.balancer import Balancer, Direction


@component
class ExampleBalancer(Balancer):
    """Task weights |g_t|^-power [T] from the Gram matrix of the gradients; a zero gradient gets weight 0.

    `power` 0 is the plain sum; 1 makes all gradients equally long. The gradients themselves are never formed.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant"})

    power: float = option(1.0, ge=0, le=2, help="how much the length of a gradient counts against it")

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor | Direction:
        lengths = gradients.gramian.diagonal().clamp_min(0).sqrt()
        return torch.where(lengths > 0, lengths.clamp_min(torch.finfo(lengths.dtype).tiny) ** -self.power, 0.0)
