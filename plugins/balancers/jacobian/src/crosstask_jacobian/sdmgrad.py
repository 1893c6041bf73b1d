"""Common descent near a chosen direction."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from crosstask import component, option, state
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.named import Kept, names_of, shares_of, with_shares
from crosstask.learning.gradients.solvers import (
    gram_array,
    norms_of,
    project_to_simplex,
    to_tensor,
)
from crosstask.points.balancer import Balancer

from .preference import Preferences, preference_weights


@component
class SDMGrad(Balancer):
    """Convex weights (w + lambd p) / (1 + lambd): common descent (w) regularised toward the direction p (the mean).

    w minimises |Σ (w_i + lambd p_i) g_i|² over the simplex, approached by `steps` projected gradient steps with
    momentum on the Gram matrix divided by the squared mean norm, from where the last update left off (state, by task;
    in a step with only some of the tasks the simplex is that of these). The paper estimates the Gram matrix from two
    independent batches; here both are the batch at hand, which makes its diagonal too large by the noise.

    Source: Xiao, Ban, Ji 2023, *Direction-oriented Multi-objective Learning*, arXiv:2305.18409, equations 5 and 6,
    algorithm 1.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant", "convex_weights"})
    results_version: ClassVar[int] = 2

    lambd: float = option(0.3, help="pull toward the preferred direction", ge=0)
    steps: int = option(20, help="inner steps in each update", ge=1)
    lr_inner: float = option(10.0, help="their size", gt=0)
    momentum: float = option(0.5, help="their momentum", ge=0, lt=1)
    preferences: Preferences = option(
        None, help="weight of each task, in their order or by name; equal if not given", gt=0
    )

    weights: Kept = state(factory=dict)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        gramian = gram_array(gradients)
        count = len(gramian)
        names = names_of(self.origin, gradients, self.weights)
        weights = shares_of(self.weights, names)
        wanted = preference_weights(self, self.preferences, gradients)
        size = norms_of(gramian).mean()
        gramian = gramian / size**2 if size else gramian
        velocity = np.zeros(count)
        for _ in range(self.steps):
            velocity = self.momentum * velocity + gramian @ (weights + self.lambd * wanted)
            weights = project_to_simplex(weights - self.lr_inner * velocity)
        self.weights = with_shares(self.weights, names, weights)
        return to_tensor((weights + self.lambd * wanted) / (1 + self.lambd), losses)
