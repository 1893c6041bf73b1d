"""The geometric mean of the losses."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from crosstask import component
from crosstask.learning.gradients import TaskGradients
from crosstask.points.balancer import Balancer

from .positive import positive


@component
class GLS(Balancer):
    """Minimises the geometric mean of the losses, (Π L_i)^(1/T): weights are that mean divided by T L_i.

    Scaling a loss changes nothing but the length of the update. RunError if a loss is not positive.

    Source: Chennupati et al. 2019, *MultiNet++*, arXiv:1904.08492, equation 2.
    """

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant", "needs_losses"})

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        values = positive(losses, self.origin)
        return (values.log().mean().exp() / (len(values) * values)).to(losses)
