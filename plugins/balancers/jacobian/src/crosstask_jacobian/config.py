"""The conflict-free direction with equal cosines to all tasks."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from torch import Tensor

from crosstask import component, option
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.solvers import UnitGramian, pseudo_solve, to_tensor
from crosstask.points.balancer import Balancer

from .preference import Preferences, preference_weights


@component
class ConFIG(Balancer):
    """The direction u with the same cosine to every task gradient (or cosines as `preferences`), of length Σ g_i·u.

    u = unit(U⁺ 1) with U the unit gradients, which is Σ z_i ĝ_i with z = C⁺ 1 and C their cosines: no [T, D]
    pseudo-inverse is needed. Free of conflict as long as the gradients are linearly independent.

    Source: Liu, Chu, Thuerey 2024, *ConFIG*, arXiv:2408.11104, equation 2.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant"})

    preferences: Preferences = option(
        None, help="relative cosine to each task, in their order or by name; equal if not given", gt=0
    )

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        unit = UnitGramian.of(gradients)
        wanted = preference_weights(self, self.preferences, gradients)[unit.live]
        found = pseudo_solve(unit.cosines, wanted, unit.ridge)
        gains = unit.cosines @ found  # ĝ_i·v
        length = math.sqrt(max(float(found @ gains), 0.0))
        if length == 0:
            return to_tensor(np.zeros(len(losses)), losses)
        return to_tensor(unit.weights(found * (float(unit.norms @ gains) / length**2)), losses)
