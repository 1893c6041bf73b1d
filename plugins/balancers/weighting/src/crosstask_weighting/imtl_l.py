"""Weights that bring all losses to one scale."""

from __future__ import annotations

from typing import ClassVar

import attrs
from torch import Tensor, nn

from crosstask import component, option, state
from crosstask.learning.gradients import TaskGradients
from crosstask.points.balancer import Balancer

from .trained import add_gradient, empty_parameter, filled


@component
class IMTLL(Balancer):
    """Trains log scales s [T] with the model, on Σ exp(s_i) L_i - s_i: weights exp(s_i), at the optimum 1/L_i.

    `parameters()` belongs into the model's optimiser (`MultiTaskTrainer` puts it there): the parameter is empty until
    the first step tells the number of tasks, and its gradient exp(s_i) L_i - 1 is added in every step. State: s.
    RunError if the number of tasks changes.

    Source: Liu et al. 2021, *Towards Impartial Multi-task Learning*, ICLR, equation 6.
    """

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant", "needs_losses"})

    initial: float = option(0.0, help="log scale at the start")

    log_scales: Tensor | None = state(None)
    _parameter: nn.Parameter = attrs.field(factory=empty_parameter, init=False, repr=False)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        self.log_scales = filled(self._parameter, self.log_scales, self.initial, losses, self.origin)
        weights = self.log_scales.exp()
        add_gradient(self._parameter, weights * losses - 1)
        return weights

    def parameters(self) -> list[nn.Parameter]:
        return [self._parameter]
