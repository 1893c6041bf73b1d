"""Each parameter's mean without its extremes."""

from __future__ import annotations

import functools
from typing import ClassVar

import torch
from torch import Tensor

from crosstask import component, option
from crosstask.errors import RunError
from crosstask.learning.gradients import TaskGradients
from crosstask.points.balancer import Balancer, Direction

BLOCK = 2**14
"""Parameters done at once on a CPU."""


@component
class TrimmedMean(Balancer):
    """For each parameter the mean of the tasks' gradients without the largest and the smallest `share` of them.

    So many are cut on each side: `share` T, rounded down, and no more than leave one (of an odd T) or two. 0 is the
    mean, 1/2 the median of each parameter. Where nothing is cut, the weights are 1/T and no gradient is formed.

    Element-wise, so it needs the whole matrix [T, D]; it is sorted by a network of minima and maxima, block by block,
    which is some ten times faster than sorting the columns. An infinite gradient is cut as any other extreme one;
    RunError names a task whose gradient is not a number, or of which too much is infinite.

    Source: Yin, Chen, Ramchandran, Bartlett 2018, *Byzantine-Robust Distributed Learning*, arXiv:1803.01498,
    definitions 1 and 2.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant"})

    share: float = option(1 / 3, help="part of the gradients that is cut on each side; 1/2 is the median", ge=0, le=0.5)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor | Direction:
        count = gradients.tasks
        cut = min(int(self.share * count + 1e-9), (count - 1) // 2)
        if not cut:
            return torch.full_like(losses, 1 / count)
        found = middle(gradients.matrix, cut)
        if not bool(torch.isfinite(found).all()):
            wrong = ~torch.isfinite(gradients.matrix).all(dim=1)
            name = gradients.names[int(wrong.int().argmax())]
            raise RunError(f"the gradient of task {name} is not finite; gradients cannot be balanced")
        return Direction(vector=found)


def middle(matrix: Tensor, cut: int) -> Tensor:
    """The mean [D] of each column of [T, D] without its `cut` largest and smallest."""
    count, size = matrix.shape
    made = torch.empty_like(matrix[0])
    width = BLOCK if matrix.device.type == "cpu" else max(size, 1)
    for start in range(0, size, width):
        rows = list(matrix[:, start : start + width].unbind(0))
        for low, high in network(count):
            rows[low], rows[high] = torch.minimum(rows[low], rows[high]), torch.maximum(rows[low], rows[high])
        torch.mean(torch.stack(rows[cut : count - cut]), dim=0, out=made[start : start + width])
    return made


@functools.cache
def network(count: int) -> tuple[tuple[int, int], ...]:
    """The pairs of places to compare, in this order, that sort any `count` values (Batcher 1968, odd-even merging)."""
    pairs: list[tuple[int, int]] = []
    merged = 1
    while merged < count:
        apart = merged
        while apart:
            for start in range(apart % merged, count - apart, 2 * apart):
                lows = range(start, start + min(apart, count - apart - start))
                pairs.extend((n, n + apart) for n in lows if n // (2 * merged) == (n + apart) // (2 * merged))
            apart //= 2
        merged *= 2
    return tuple(pairs)
