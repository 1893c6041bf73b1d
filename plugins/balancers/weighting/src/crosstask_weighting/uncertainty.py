"""Weights from each task's learned noise."""

from __future__ import annotations

from typing import ClassVar

import attrs
from torch import Tensor, nn

from crosstask import component, option, state
from crosstask.learning.gradients import TaskGradients
from crosstask.points.balancer import Balancer

from .trained import add_gradient, empty_parameter, filled


@component
class Uncertainty(Balancer):
    """Trains log variances s [T] with the model, on Σ exp(-s_i) L_i + s_i: weights exp(-s_i).

    `parameters()` belongs into the model's optimiser (`MultiTaskTrainer` puts it there): the parameter is empty until
    the first step tells the number of tasks, and its gradient 1 - exp(-s_i) L_i is added in every step. State: s.
    RunError if the number of tasks changes.

    Source: Kendall, Gal, Cipolla 2018, arXiv:1705.07115, equation 7 without its factor of a half (a constant for
    regression, and what the authors use for classification, equation 10).
    """

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant", "needs_losses"})

    initial: float = option(0.0, help="log variance at the start")

    log_variances: Tensor | None = state(None)
    _parameter: nn.Parameter = attrs.field(factory=empty_parameter, init=False, repr=False)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        self.log_variances = filled(self._parameter, self.log_variances, self.initial, losses, self.origin)
        weights = (-self.log_variances).exp()
        add_gradient(self._parameter, 1 - weights * losses)
        return weights

    def parameters(self) -> list[nn.Parameter]:
        return [self._parameter]
