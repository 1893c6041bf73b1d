"""One sign for each parameter."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from crosstask import component, option, state
from crosstask.learning.gradients import TaskGradients
from crosstask.points.balancer import Balancer, Direction


@component
class GradDrop(Balancer):
    """Keeps, for each parameter, only the gradients of one sign, drawn with the purity of the positive sign.

    Per parameter P = (1 + Σ g_i / Σ |g_i|) / 2; with probability P the positive gradients are summed, else the
    negative ones. With `leak` that part of the plain sum is let through. Element-wise, so it needs the whole matrix
    [T, D], which is read twice and copied never.

    Numbers are drawn on the device of the gradients, from a generator seeded by the run and the number of updates.

    Source: Chen et al. 2020, *Just Pick a Sign*, arXiv:2010.06808, equation 1, algorithm 1.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant", "stochastic"})

    leak: float = option(0.0, help="part of the plain sum that is let through", ge=0, le=1)

    updates: int = state(0)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Direction:
        matrix = gradients.matrix
        generator = torch.Generator(matrix.device).manual_seed(self.context.seed_for("graddrop", self.updates))
        self.updates += 1
        total, size = matrix.sum(dim=0), torch.linalg.vector_norm(matrix, ord=1, dim=0)
        draw = torch.rand(size.shape, generator=generator, dtype=torch.float32, device=size.device)
        positive = total + size > 2 * draw * size  # P > draw, without 0/0
        kept = torch.where(positive, total + size, total - size) / 2
        return Direction(vector=torch.lerp(kept, total, self.leak) if self.leak else kept)
