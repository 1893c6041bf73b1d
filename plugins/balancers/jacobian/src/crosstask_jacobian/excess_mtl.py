"""Weights that follow what each task still has to gain."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from crosstask import component, option, state
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.solvers import check_lasting, check_tasks, to_array, to_tensor
from crosstask.points.balancer import Balancer


@component
class ExcessMTL(Balancer):
    """Convex loss weights that grow with a task's excess risk, how far its loss is above the best reachable one.

    The excess risk is estimated by g·diag(H)⁻¹g with H the root of the squared gradients summed over time (as in
    Adagrad), relative to its mean over the first `warmup` updates, during which the weights are uniform. Then w ← w
    exp(rate x excess), normalised. Unlike loss-based weighting, label noise does not attract weight. Element-wise, so
    it needs the matrix [T, D] and keeps as much (state). RunError if the number of tasks changes.

    Source: He et al. 2024, *Robust Multi-Task Learning with Excess Risks*, ICML, equations 6, 7 and 9.
    """

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "convex_weights"})

    rate: float = option(0.01, help="step size of the weights", gt=0)
    warmup: int = option(1, help="updates with uniform weights, over which the first excess risk is averaged", ge=1)

    squares: Tensor | None = state(None)
    initial: Tensor | None = state(None)
    weights: Tensor | None = state(None)
    updates: int = state(0)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        check_lasting(self.origin, gradients)
        matrix = gradients.matrix
        count = len(matrix)
        if self.squares is None or self.initial is None or self.weights is None:
            squares = matrix.square()
            initial, weights = np.zeros(count), np.full(count, 1 / count)
        else:
            check_tasks(self.origin, len(self.squares), count)
            squares = torch.addcmul(self.squares.to(matrix), matrix, matrix)
            initial, weights = to_array(self.initial), to_array(self.weights)
        excess = to_array((matrix.square() / (squares + 1e-7).sqrt()).sum(dim=1))
        self.updates += 1
        if self.updates <= self.warmup:
            initial = initial + excess / self.warmup
        else:
            grown = np.log(np.maximum(weights, 1e-300)) + self.rate * excess / (initial + 1e-7)
            weights = np.exp(grown - grown.max())
            weights = weights / weights.sum()
        self.squares = squares
        self.initial, self.weights = torch.from_numpy(initial), torch.from_numpy(weights)
        return to_tensor(weights, losses)
