"""One sign for each parameter."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from crosstask import component, option, state
from crosstask.learning.gradients import TaskGradients
from crosstask.points.balancer import Balancer, Direction

BLOCK = 2**15
"""Parameters done at once on a CPU."""


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
    results_version: ClassVar[int] = 2

    leak: float = option(0.0, help="part of the plain sum that is let through", ge=0, le=1)

    updates: int = state(0)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Direction:
        matrix = gradients.matrix
        generator = torch.Generator(matrix.device).manual_seed(self.context.seed_for("graddrop", self.updates))
        self.updates += 1
        draw = torch.rand(matrix.shape[1], generator=generator, dtype=torch.float32, device=matrix.device)
        return Direction(vector=drop(matrix, draw, self.leak))


def drop(matrix: Tensor, draw: Tensor, leak: float) -> Tensor:
    """The update [D] for gradients [T, D] and uniform draws [D], block by block so that a block stays in the cache."""
    made = torch.empty_like(matrix[0])
    halves = torch.full_like(matrix[:, 0], 0.5)
    width = min(BLOCK, matrix.shape[1]) if matrix.device.type == "cpu" else matrix.shape[1]
    sizes = torch.empty_like(matrix[:, :width])  # in the same places for all blocks, which stay in the cache
    for start in range(0, matrix.shape[1], max(width, 1)):
        block = slice(start, start + width)
        part = matrix[:, block]
        total, size = halves @ part, halves @ torch.abs(part, out=sizes[:, : part.shape[1]])
        # total + size is the sum of the positive ones, total - size of the others. P > draw where this is below 0:
        sign = torch.mul(draw[block] * 2 - 1, size).sub_(total)  # without 0/0
        kept = torch.sub(total, torch.copysign(size, sign, out=sign), out=made[block])
        if leak:
            kept.lerp_(2 * total, leak)
    return made
