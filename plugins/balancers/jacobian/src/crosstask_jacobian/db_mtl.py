"""Losses and gradients on one scale."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from crosstask import component, option, state
from crosstask.errors import RunError
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.named import Kept, kept_of, names_of, rows_of, with_kept, with_rows
from crosstask.learning.gradients.solvers import (
    check_lasting,
    gram_array,
    inverse,
    norms_of,
    to_array,
    to_tensor,
)
from crosstask.points.balancer import Balancer, Direction


@component
class DBMTL(Balancer):
    """Averaged gradients of the logarithms of the losses, all stretched to the length of the longest, and summed.

    u_i ← g_i/L_i + beta_k (u_i - g_i/L_i) with beta_k = beta / k^beta_decay in the task's step k, and the update is Σ
    (max |u| / |u_i|) u_i. With `beta` 0 only the Gram matrix is needed, else the u_i [D] and k are kept, by task
    (state). A task's first step starts from its own gradient. Task-specific parameters get their own task's plain
    gradient. RunError if a loss is not positive.

    Source: Lin et al. 2023, *Dual-Balancing for Multi-Task Learning*, arXiv:2308.12029, equations 2 to 4, algorithm 1.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant", "needs_losses"})
    results_version: ClassVar[int] = 2

    beta: float = option(0.9, help="how much of the averaged gradients is kept", ge=0, lt=1)
    beta_decay: float = option(0.5, help="power of the step by which beta is divided", ge=0)

    average: dict[str, Tensor] = state(factory=dict)
    updates: Kept = state(factory=dict)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor | Direction:
        values = to_array(losses)
        if not (values > 0).all():
            raise RunError(f"{self.origin}: losses must be positive for their logarithm, got {values.tolist()}")
        if not self.beta:
            norms = norms_of(gram_array(gradients)) / values
            return to_tensor(norms.max() * inverse(norms) / values, losses)
        check_lasting(self.origin, gradients)
        matrix = gradients.matrix / losses[:, None].to(gradients.matrix)
        names = names_of(self.origin, gradients, self.updates)
        updates = kept_of(self.updates, names) + 1
        for row, old, step in zip(matrix, rows_of(self.average, names), updates, strict=True):
            if old is not None and len(old) == len(row):  # what the tasks share may have changed
                row.lerp_(old.to(matrix), float(self.beta / step**self.beta_decay))
        self.average, self.updates = with_rows(self.average, names, matrix), with_kept(self.updates, names, updates)
        norms = to_array(matrix.norm(dim=1))
        return Direction(vector=to_tensor(np.asarray(norms.max() * inverse(norms)), matrix) @ matrix)
