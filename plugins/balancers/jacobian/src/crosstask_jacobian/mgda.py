"""The shortest vector in the convex hull of the task gradients."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from crosstask import component, option
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.solvers import (
    UnitGramian,
    gram_array,
    inverse,
    min_norm_weights,
    norms_of,
    to_array,
    to_tensor,
)
from crosstask.points.balancer import Balancer


@component
class MGDA(Balancer):
    """The shortest vector in the convex hull of the gradients: zero exactly where no direction helps all tasks.

    Weights w >= 0 with sum 1 minimise |Σ w_i g_i|². The problem is solved exactly, not by a number of Frank-Wolfe
    steps. A task whose gradient is zero takes all the weight: the point is Pareto stationary.

    `normalize` divides gradients before the solve (the weights apply to the original ones): `l2` by their norm, `loss`
    by the loss, `loss+` by both. Without it a task with small gradients dominates.

    Source: Désidéri 2012, *Multiple-gradient descent algorithm*; Sener & Koltun 2018, arXiv:1810.04650, equation 3.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"permutation_invariant", "scale_equivariant", "non_conflicting", "convex_weights"}
    )

    normalize: Literal["none", "l2", "loss", "loss+"] = option("none", help="what gradients are divided by first")

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        gramian = gram_array(gradients)
        scale = np.ones(len(gramian))
        if self.normalize in ("l2", "loss+"):
            scale = scale * inverse(norms_of(gramian))
        if self.normalize in ("loss", "loss+"):
            scale = scale * inverse(to_array(losses))
        unit = UnitGramian.of(gradients, scale)
        return to_tensor(min_norm_weights(unit), losses)
