"""The sum of the logarithms of the losses."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from crosstask import component
from crosstask.learning.gradients import TaskGradients
from crosstask.points.balancer import Balancer

from .positive import positive


@component
class ScaleInvariant(Balancer):
    """Minimises Σ log L_i: weights 1/L_i, which no scaling of a loss can change. RunError if a loss is not positive.

    Source: the logarithmic transformation of Navon et al. 2022, arXiv:2202.01017, section 5 ("SI").
    """

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant", "needs_losses"})

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        return (1 / positive(losses, self.origin)).to(losses)
