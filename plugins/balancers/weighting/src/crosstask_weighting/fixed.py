"""Weights chosen beforehand."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from crosstask import component, option
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.named import given_to
from crosstask.learning.gradients.solvers import to_tensor
from crosstask.points.balancer import Balancer


@component
class Fixed(Balancer):
    """The same weights in every step, by task, or in the order of the tasks.

    RunError if a task has none, or if there are not as many weights as tasks.
    """

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset({"scale_equivariant", "linear_under_scaling"})

    weights: tuple[float, ...] | dict[str, float] = option(
        help="one weight for each task, by name or in their order", ge=0
    )

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        return to_tensor(given_to(self.origin, "weights", self.weights, gradients), losses)
