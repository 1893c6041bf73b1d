"""Weights chosen beforehand."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from crosstask import component, option
from crosstask.errors import RunError
from crosstask.learning.gradients import TaskGradients
from crosstask.points.balancer import Balancer


@component
class Fixed(Balancer):
    """The same weights in every step, in the order of the tasks. RunError if there are not as many tasks as weights."""

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset({"scale_equivariant", "linear_under_scaling"})

    weights: tuple[float, ...] = option(help="one weight for each task", ge=0)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        if len(self.weights) != len(losses):
            raise RunError(f"{self.origin}: has {len(self.weights)} weights for {len(losses)} tasks")
        return losses.new_tensor(self.weights)
