"""Multi-objective descent with corrected gradient bias."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from crosstask import component, option, state
from crosstask.learning.gradients import MatrixGradients, TaskGradients
from crosstask.learning.gradients.solvers import (
    check_lasting,
    check_tasks,
    gram_array,
    project_to_simplex,
    to_array,
    to_tensor,
)
from crosstask.points.balancer import Balancer, Direction


@component
class MoCo(Balancer):
    """MGDA's weights, followed slowly, on slowly followed gradients: both noise and bias of one batch average out.

    In step k: y_i ← y_i - beta_k (y_i - g_i), λ ← projection onto the simplex of λ - gamma_k (Y Yᵀ + rho) λ, and the
    update is Σ λ_i y_i; beta_k = beta / k^beta_decay and the same for gamma. y starts at the first gradients, λ
    uniform. The y_i [T, D] are state. RunError if the number of tasks changes.

    Source: Fernando et al. 2023, *Mitigating Gradient Bias in Multi-objective Learning*, ICLR, algorithm 1, equations
    9 to 11.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant"})

    beta: float = option(0.5, help="step size of the followed gradients", gt=0, le=1)
    beta_decay: float = option(0.5, help="power of the step by which beta is divided", ge=0)
    gamma: float = option(0.1, help="step size of the weights", gt=0)
    gamma_decay: float = option(0.5, help="power of the step by which gamma is divided", ge=0)
    rho: float = option(0.0, help="pull of the weights toward uniform", ge=0)

    followed: Tensor | None = state(None)
    weights: Tensor | None = state(None)
    updates: int = state(0)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Direction:
        check_lasting(self.origin, gradients)
        matrix = gradients.matrix
        count = len(matrix)
        self.updates += 1
        if self.followed is None or self.weights is None:
            followed, weights = matrix.clone(), np.full(count, 1 / count)
        else:
            check_tasks(self.origin, len(self.followed), count)
            followed = torch.lerp(self.followed.to(matrix), matrix, self.beta / self.updates**self.beta_decay)
            weights = to_array(self.weights)
        gramian = gram_array(MatrixGradients(followed))
        rate = self.gamma / self.updates**self.gamma_decay
        weights = project_to_simplex(weights - rate * (gramian @ weights + self.rho * weights))
        self.followed, self.weights = followed, torch.from_numpy(weights)
        return Direction(vector=to_tensor(weights, matrix) @ followed)
