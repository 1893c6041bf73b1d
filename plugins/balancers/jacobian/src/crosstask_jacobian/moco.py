"""Multi-objective descent with corrected gradient bias."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from crosstask import component, option, state
from crosstask.learning.gradients import MatrixGradients, TaskGradients
from crosstask.learning.gradients.named import (
    Kept,
    kept_of,
    names_of,
    rows_of,
    shares_of,
    with_kept,
    with_rows,
    with_shares,
)
from crosstask.learning.gradients.solvers import (
    check_lasting,
    gram_array,
    project_to_simplex,
    to_tensor,
)
from crosstask.points.balancer import Balancer, Direction


@component
class MoCo(Balancer):
    """MGDA's weights, followed slowly, on slowly followed gradients: both noise and bias of one batch average out.

    In step k: y_i ← y_i - beta_k (y_i - g_i), λ ← projection onto the simplex of λ - gamma_k (Y Yᵀ + rho) λ, and the
    update is Σ λ_i y_i; beta_k = beta / k^beta_decay with k of each task's own steps, and the same for gamma. y starts
    at the first gradients, λ uniform. State, by task: y_i [D], λ_i, k. In a step with only some of the tasks the
    simplex is that of these, and they divide among them the weight that they had together.

    Source: Fernando et al. 2023, *Mitigating Gradient Bias in Multi-objective Learning*, ICLR, algorithm 1, equations
    9 to 11.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant"})
    results_version: ClassVar[int] = 2

    beta: float = option(0.5, help="step size of the followed gradients", gt=0, le=1)
    beta_decay: float = option(0.5, help="power of the step by which beta is divided", ge=0)
    gamma: float = option(0.1, help="step size of the weights", gt=0)
    gamma_decay: float = option(0.5, help="power of the step by which gamma is divided", ge=0)
    rho: float = option(0.0, help="pull of the weights toward uniform", ge=0)

    followed: dict[str, Tensor] = state(factory=dict)
    weights: Kept = state(factory=dict)
    updates: Kept = state(factory=dict)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Direction:
        check_lasting(self.origin, gradients)
        names = names_of(self.origin, gradients, self.updates)
        matrix = gradients.matrix
        updates = kept_of(self.updates, names) + 1
        followed = torch.empty_like(matrix)
        for row, old, new, step in zip(followed, rows_of(self.followed, names), matrix, updates, strict=True):
            if old is None or len(old) != len(new):  # what the tasks share may have changed
                row.copy_(new)
            else:
                torch.lerp(old.to(matrix), new, float(self.beta / step**self.beta_decay), out=row)
        gramian, weights = gram_array(MatrixGradients(followed, names)), shares_of(self.weights, names)
        rate = self.gamma / updates**self.gamma_decay
        weights = project_to_simplex(weights - rate * (gramian @ weights + self.rho * weights))
        self.followed, self.weights = (
            with_rows(self.followed, names, followed),
            with_shares(self.weights, names, weights),
        )
        self.updates = with_kept(self.updates, names, updates)
        return Direction(vector=to_tensor(weights, matrix) @ followed)
