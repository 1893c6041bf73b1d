"""Projection of the mean gradient onto the cone of directions that harm no task."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from crosstask import component, option
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.solvers import UnitGramian, nonnegative_qp, to_tensor
from crosstask.points.balancer import Balancer

from .preference import Preferences, preference_weights


@component
class DualProj(Balancer):
    """Projects the mean gradient onto the dual cone {d: g_j·d >= 0 for all j}: the nearest update that harms no task.

    The projection is Σ_j v_j g_j with the v >= 1/T that minimises |Σ_j v_j g_j|²: one small quadratic program.

    Source: Lopez-Paz & Ranzato 2017, *Gradient Episodic Memory*, arXiv:1706.08840, equation 11; named as here in
    Quinton & Rey 2024, arXiv:2406.16232.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"permutation_invariant", "scale_equivariant", "non_conflicting"}
    )

    preferences: Preferences = option(
        None, help="weight of each task, in their order or by name; equal if not given", gt=0
    )

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        unit = UnitGramian.of(gradients)
        wanted = preference_weights(self, self.preferences, gradients)[unit.live] * unit.norms
        added = nonnegative_qp(unit.cosines, (unit.cosines @ wanted)[:, None])[:, 0]
        return to_tensor(unit.weights(wanted + added), losses)
