"""Losses in the proportions of the preferences."""

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
class COSMOS(Balancer):
    """Minimises Σ r_i L_i - lambd cos(r, L), r the `preferences`: the weighted sum, pulled toward losses in their
    proportions.

    A weight is r_i - lambd (r_i / |r| - cos L_i / |L|) / |L|: the smaller the losses are, the more their proportions
    count. It can be negative for a loss below its share, which is thereby held back.

    The paper also gives r, drawn anew for every batch, to the network as an input, which learns the whole front: set
    `preferences` before each step for that.

    Source: Ruchte & Grabocka 2021, *Scalable Pareto Front Approximation for Deep Multi-Objective Learning*,
    arXiv:2103.13392.
    """

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant", "needs_losses"})

    lambd: float = option(1.0, help="weight of the proportions; the paper takes 0.01 to 8", ge=0)
    preferences: tuple[float, ...] | dict[str, float] | None = option(
        None, help="weight of each task, in their order or by name; 1/T if not given", gt=0
    )

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        values, wanted = to_array(losses), np.full(len(losses), 1 / len(losses))
        if self.preferences is not None:
            wanted = given_to(self.origin, "preferences", self.preferences, gradients)
        size = math.sqrt(float(values @ values))
        if not size:
            return to_tensor(wanted, losses)  # losses of zero have no direction
        unit, toward = values / size, wanted / math.sqrt(float(wanted @ wanted))
        return to_tensor(wanted - self.lambd * (toward - float(toward @ unit) * unit) / size, losses)
