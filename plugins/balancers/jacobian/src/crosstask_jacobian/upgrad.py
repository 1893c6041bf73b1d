"""Projection of every task gradient onto the cone of directions that harm no task."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from crosstask import component, option
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.solvers import UnitGramian, nonnegative_qp, to_tensor
from crosstask.points.balancer import Balancer

from .preference import Preferences, preference_weights


@component
class UPGrad(Balancer):
    """Projects each task's gradient onto the dual cone {d: g_j·d >= 0 for all j}, and takes their mean.

    Never conflicts with any task, and without conflict it is the mean of the gradients. The projection of g_i is
    Σ_j v_j g_j with the v >= e_i that minimises |Σ_j v_j g_j|²: T small quadratic programs in the Gram matrix,
    solved together and exactly.

    Source: Quinton & Rey 2024, *Jacobian Descent for Multi-Objective Optimization*, arXiv:2406.16232, equation 5 and
    proposition 1.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"permutation_invariant", "scale_equivariant", "non_conflicting", "linear_under_scaling"}
    )

    preferences: Preferences = option(
        None, help="weight of each task, in their order or by name; equal if not given", gt=0
    )

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        unit = UnitGramian.of(gradients)
        wanted = preference_weights(self, self.preferences, gradients)[unit.live] * unit.norms  # of unit gradients
        start = np.diag(wanted)
        added = nonnegative_qp(unit.cosines, unit.cosines * wanted)
        return to_tensor(unit.weights((start + added).sum(axis=1)), losses)
