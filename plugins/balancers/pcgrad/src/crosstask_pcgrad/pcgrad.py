"""Gradient surgery in the Gram matrix."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crosstask import component, state
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.solvers import Array, gram_array, inverse, to_tensor
from crosstask.points.balancer import Balancer


@component
class PCGrad(Balancer):
    """Projects each task's gradient onto the normal plane of every other one that it conflicts with.

    For each task i the others are visited in a random order: where the gradient so far, v, has v·g_j < 0, it
    loses (v·g_j / |g_j|²) g_j. The g_j are the *original* gradients. The update is the sum of the projected
    gradients, so without conflict it is that of equal weights, and for two tasks it conflicts with neither.

    Every v is a combination of the g_j, so all of this happens on [T, T] coefficients, for all tasks at once.
    The order comes from a generator seeded by the run and the number of updates so far (state), on the CPU
    whatever the device.

    Source: Yu, Kumar, Gupta, Levine, Hausman, Finn 2020, *Gradient Surgery for Multi-Task Learning*,
    arXiv:2001.06782, algorithm 1.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"scale_equivariant", "stochastic"})

    updates: int = state(0)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        gramian = gram_array(gradients)
        count = len(gramian)
        generator = self.context.generator("pcgrad", self.updates)
        self.updates += 1
        draws = torch.rand(count, count, generator=generator, dtype=torch.float64)
        return to_tensor(surgery(gramian, draws.numpy().argsort(axis=1)).sum(axis=0), losses)


def surgery(gramian: Array, order: NDArray[np.intp]) -> Array:
    """Coefficients [T, T]: row i says how task i's projected gradient is made from the original ones.

    Row i of `order` [T, T] is a permutation of all tasks; its own place in it is skipped.
    """
    count = len(gramian)
    tasks = np.arange(count)
    shrink = inverse(gramian.diagonal())  # a zero gradient conflicts with nothing
    made = np.eye(count)
    products = gramian.copy()  # row i: the inner products of v_i with the original gradients
    for others in order.T:
        amount = np.minimum(products[tasks, others], 0) * shrink[others]
        amount[others == tasks] = 0
        made[tasks, others] -= amount
        products -= amount[:, None] * gramian[others]
    return made
