"""The update with equal projections on all task gradients."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from crosstask import component
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.solvers import UnitGramian, pseudo_solve, to_tensor
from crosstask.points.balancer import Balancer


@component
class IMTLG(Balancer):
    """Weights with sum 1 such that the update has the same projection on every task's gradient direction.

    Weights are C⁻¹ 1 for the unit gradients, C their cosines: its pseudo-inverse where gradients depend on each
    other. They may be negative. Where they would sum to zero, so that no scale exists, the update is zero.

    Source: Liu et al. 2021, *Towards Impartial Multi-task Learning*, ICLR, equation 3 (the closed form for dependent
    gradients is that of Quinton & Rey 2024, arXiv:2406.16232).
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant"})

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        unit = UnitGramian.of(gradients)
        found = unit.weights(pseudo_solve(unit.cosines, np.ones(len(unit.norms)), unit.ridge))
        total = found.sum()
        return to_tensor(found / total if abs(total) > 1e-12 * np.abs(found).sum() else np.zeros(len(found)), losses)
