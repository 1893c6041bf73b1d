"""The update near the mean gradient whose worst task gains most."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from torch import Tensor

from crosstask import component, option
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.solvers import Array, UnitGramian, nonnegative_qp, to_tensor
from crosstask.points.balancer import Balancer

STATIONARY = 1e-4
"""How much of their lengths the gradients may leave of each other before the point counts as Pareto stationary."""


@component
class CAGrad(Balancer):
    """Within distance c |g_0| of the mean gradient g_0, the update d whose smallest g_i·d is largest.

    With c = 0 it is the mean, and for c >= 1 it tends to MGDA's direction. The paper's dual, min over convex w of
    g_w·g_0 + c |g_0| |g_w|, is solved exactly: d is the projection of g_0 onto {d: g_i·d >= ν for all i}, a
    non-negative quadratic program for each ν, and ν is where its distance from g_0 becomes c |g_0|. Where no update
    within reach helps all tasks at once and staying does not harm, the update is zero. A zero gradient counts in the
    mean only: no update could help its task.

    `rescale` divides the update as in the authors' code: by 1 (0), 1 + c² (1) or 1 + c (2).

    Source: Liu, Liu, Jin, Stone, Liu 2021, *Conflict-Averse Gradient Descent*, arXiv:2110.14048, equations 4 and 5,
    algorithm 1.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant"})

    c: float = option(0.5, help="radius around the mean gradient, relative to its length", ge=0)
    rescale: int = option(0, help="divide the update by 1 (0), 1 + c² (1) or 1 + c (2)", choices=(0, 1, 2))

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        unit = UnitGramian.of(gradients)
        divisor = (1.0, 1 + self.c**2, 1 + self.c)[self.rescale]
        return to_tensor(conflict_averse_weights(unit, self.c) / divisor, losses)


def conflict_averse_weights(unit: UnitGramian, c: float) -> Array:
    """Weights [T] of CAGrad's update."""
    count = len(unit.live)
    mean = unit.norms / count  # of the unit gradients
    products = unit.cosines @ mean  # ĝ_i·g_0
    radius = c * math.sqrt(max(float(mean @ products), 0.0))
    if radius == 0:
        return unit.weights(mean)
    targets = 1 / unit.norms  # g_i·d >= ν is ĝ_i·d >= ν / |g_i|
    low = float((products * unit.norms).min())  # up to here g_0 itself will do
    high = float((unit.norms * (products + 1.001 * radius)).min())  # no update reaches this one
    level, extra = low, np.zeros_like(mean)
    for _ in range(100):
        free = extra > 0
        # On these free entries x = level p - q, so its squared length is a parabola in level.
        candidate = (low + high) / 2
        if free.any():
            system = unit.cosines[np.ix_(free, free)]
            solved = np.linalg.solve(system, np.stack([targets[free], products[free]], axis=1))
            a, b = targets[free] @ solved
            e = products[free] @ solved[:, 1]
            inside = b * b - a * (e - radius**2)
            root = (b + math.sqrt(inside)) / a if inside >= 0 else math.nan
            if low <= root <= high:
                candidate = root
        level = candidate
        extra = nonnegative_qp(unit.cosines, (products - level * targets)[:, None], free[:, None])[:, 0]
        length = math.sqrt(max(float(extra @ unit.cosines @ extra), 0.0))
        if abs(length - radius) <= 1e-10 * radius or high - low <= 1e-15 * max(abs(high), abs(low)):
            break
        low, high = (level, high) if length < radius else (low, level)
    if radius <= STATIONARY * extra.sum():
        return np.zeros(count)
    return unit.weights(mean + extra)
