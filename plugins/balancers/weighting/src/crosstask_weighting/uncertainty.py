"""Weights from each task's learned noise."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from crosstask import component, option

from .trained import TrainedScales


@component
class Uncertainty(TrainedScales):
    """Trains log variances s [T] with the model, on Σ exp(-s_i) L_i + s_i: weights exp(-s_i).

    `parameters()` belongs into the model's optimiser (`MultiTaskTrainer` puts it there): one for each task, whose
    gradient 1 - exp(-s_i) L_i is added in every step that the task takes part in. State: s, by task.

    Source: Kendall, Gal, Cipolla 2018, arXiv:1705.07115, equation 7 without its factor of a half (a constant for
    regression, and what the authors use for classification, equation 10).
    """

    sign: ClassVar[float] = 1.0
    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant", "needs_losses"})
    results_version: ClassVar[int] = 2

    initial: float = option(0.0, help="log variance at the start")

    def weigh(self, scales: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
        weights = (-scales).exp()
        return weights, 1 - weights * losses
