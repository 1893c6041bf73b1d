"""Weights that follow what each task still has to gain."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from crosstask import component, option, state
from crosstask.learning.gradients import TaskGradients
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
from crosstask.learning.gradients.solvers import check_lasting, to_array, to_tensor
from crosstask.points.balancer import Balancer


@component
class ExcessMTL(Balancer):
    """Convex loss weights that grow with a task's excess risk, how far its loss is above the best reachable one.

    The excess risk is estimated by g·diag(H)⁻¹g with H the root of the squared gradients summed over time (as in
    Adagrad), relative to its mean over the task's first `warmup` updates, in which its weight stays. Then w ← w
    exp(rate x excess), normalised, from uniform weights. Unlike loss-based weighting, label noise does not attract
    weight. Element-wise, so it needs the matrix [T, D] and keeps as much. State, by task: the squares [D], the first
    excess risk, w, the number of updates; in a step with only some of the tasks these divide among them the weight that
    they had together.

    Source: He et al. 2024, *Robust Multi-Task Learning with Excess Risks*, ICML, equations 6, 7 and 9.
    """

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "convex_weights"})
    results_version: ClassVar[int] = 2

    rate: float = option(0.01, help="step size of the weights", gt=0)
    warmup: int = option(1, help="updates with uniform weights, over which the first excess risk is averaged", ge=1)

    squares: dict[str, Tensor] = state(factory=dict)
    initial: Kept = state(factory=dict)
    weights: Kept = state(factory=dict)
    updates: Kept = state(factory=dict)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        check_lasting(self.origin, gradients)
        names = names_of(self.origin, gradients, self.updates)
        matrix = gradients.matrix
        squares = matrix.square()
        for row, old in zip(squares, rows_of(self.squares, names), strict=True):
            if old is not None and len(old) == len(row):  # what the tasks share may have changed
                row += old.to(matrix)
        excess = to_array((matrix.square() / (squares + 1e-7).sqrt()).sum(dim=1))
        initial, weights = kept_of(self.initial, names), shares_of(self.weights, names)
        updates = kept_of(self.updates, names) + 1
        warm = updates > self.warmup
        initial = np.where(warm, initial, initial + excess / self.warmup)
        if warm.any():
            grown = np.log(np.maximum(weights, 1e-300)) + np.where(warm, self.rate * excess / (initial + 1e-7), 0.0)
            weights = np.exp(grown - grown.max())
            weights = weights / weights.sum()
        self.squares, self.weights = with_rows(self.squares, names, squares), with_shares(self.weights, names, weights)
        self.initial, self.updates = with_kept(self.initial, names, initial), with_kept(self.updates, names, updates)
        return to_tensor(weights, losses)
