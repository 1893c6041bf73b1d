"""MGDA's weights, one small step at a time."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from crosstask import component, option, state
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.solvers import check_tasks, gram_array, project_to_simplex, to_array, to_tensor
from crosstask.points.balancer import Balancer


@component
class MoDo(Balancer):
    """Convex weights w that take one projected gradient step per update toward MGDA's: w ← P(w - gamma (G w + rho w)).

    P is the projection onto the simplex; w starts uniform and is state. A small `gamma` stays near equal weights, which
    trades avoiding conflict for generalisation, the paper's point. The paper takes G from two independent batches; here
    both are the batch at hand, which makes its diagonal too large by the noise. RunError if the number of
    tasks changes.

    Source: Chen, Fernando, Ying, Chen 2023, *Three-Way Trade-Off in Multi-Objective Learning*, arXiv:2305.20057,
    algorithm 1 (with rho as in the version of JMLR 2024, equation 2.9).
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "convex_weights"})

    gamma: float = option(0.1, help="step size of the weights", gt=0)
    rho: float = option(0.1, help="pull of the weights toward uniform", ge=0)

    weights: Tensor | None = state(None)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        gramian = gram_array(gradients)
        count = len(gramian)
        weights = np.full(count, 1 / count) if self.weights is None else to_array(self.weights)
        check_tasks(self.origin, len(weights), count)
        weights = project_to_simplex(weights - self.gamma * (gramian @ weights + self.rho * weights))
        self.weights = torch.from_numpy(weights)
        return to_tensor(weights, losses)
