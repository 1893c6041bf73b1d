"""Losses along a direction, and their distance from it."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from torch import Tensor

from crosstask import component, option
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.named import given_to
from crosstask.learning.gradients.solvers import to_array, to_tensor
from crosstask.points.balancer import Balancer


@component
class PBI(Balancer):
    """Penalty-based boundary intersection: minimises d_1 + theta d_2, how far the losses have to go along the unit
    direction p of the `preferences`, and how far they are away from it.

    With f = L - ideal these are d_1 = f·p and d_2 = |f - d_1 p|; a weight is p_i + theta (f - d_1 p)_i / d_2. It is
    negative for a loss that is ahead of its share, which is thereby held back. On the direction itself weights are p.

    Source: Zhang & Li 2007, *MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition*, section II.C.
    """

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant", "needs_losses"})

    theta: float = option(5.0, help="weight of the distance from the direction", ge=0)
    preferences: tuple[float, ...] | dict[str, float] | None = option(
        None, help="the direction, a number for each task in their order or by name; equal if not given", gt=0
    )
    ideal: tuple[float, ...] | dict[str, float] | None = option(
        None, help="best possible loss of each task, in their order or by name; 0 if not given"
    )

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        values, wanted = to_array(losses), np.ones(len(losses))
        if self.preferences is not None:
            wanted = given_to(self.origin, "preferences", self.preferences, gradients)
        if self.ideal is not None:
            values = values - given_to(self.origin, "ideal", self.ideal, gradients)
        toward = wanted / math.sqrt(float(wanted @ wanted))
        away = values - float(values @ toward) * toward
        distance, size = (math.sqrt(float(each @ each)) for each in (away, values))
        if distance <= 1e-12 * size:
            return to_tensor(toward, losses)  # what rounding leaves has no direction
        return to_tensor(toward + self.theta * away / distance, losses)
