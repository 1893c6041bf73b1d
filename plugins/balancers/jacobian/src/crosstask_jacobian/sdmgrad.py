"""Common descent near a chosen direction."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from crosstask import component, option, state
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.solvers import (
    check_tasks,
    gram_array,
    norms_of,
    project_to_simplex,
    to_array,
    to_tensor,
)
from crosstask.points.balancer import Balancer

from .preference import preference_weights


@component
class SDMGrad(Balancer):
    """Convex weights (w + lambd p) / (1 + lambd): common descent (w) regularised toward the direction p (the mean).

    w minimises |Σ (w_i + lambd p_i) g_i|² over the simplex, approached by `steps` projected gradient steps with
    momentum on the Gram matrix divided by the squared mean norm, from where the last update left off (state). The
    paper estimates the Gram matrix from two independent batches; here both are the batch at hand, which makes its
    diagonal too large by the noise. RunError if the number of tasks changes.

    Source: Xiao, Ban, Ji 2023, *Direction-oriented Multi-objective Learning*, arXiv:2305.18409, equations 5 and 6,
    algorithm 1.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant", "convex_weights"})

    lambd: float = option(0.3, help="pull toward the preferred direction", ge=0)
    steps: int = option(20, help="inner steps in each update", ge=1)
    lr_inner: float = option(10.0, help="their size", gt=0)
    momentum: float = option(0.5, help="their momentum", ge=0, lt=1)
    preferences: tuple[float, ...] | None = option(None, help="weight of each task; equal if not given", gt=0)

    weights: Tensor | None = state(None)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        gramian = gram_array(gradients)
        count = len(gramian)
        weights = np.full(count, 1 / count) if self.weights is None else to_array(self.weights)
        check_tasks(self.origin, len(weights), count)
        wanted = preference_weights(self, self.preferences, count)
        size = norms_of(gramian).mean()
        gramian = gramian / size**2 if size else gramian
        velocity = np.zeros(count)
        for _ in range(self.steps):
            velocity = self.momentum * velocity + gramian @ (weights + self.lambd * wanted)
            weights = project_to_simplex(weights - self.lr_inner * velocity)
        self.weights = torch.from_numpy(weights)
        return to_tensor((weights + self.lambd * wanted) / (1 + self.lambd), losses)
