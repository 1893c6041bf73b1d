"""Weights that bring all losses to one scale."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from crosstask import component

from .trained import TrainedScales


@component
class IMTLL(TrainedScales):
    """Trains log scales s [T] with the model, on Σ exp(s_i) L_i - s_i: weights exp(s_i), at the optimum 1/L_i.

    `parameters()` belongs into the model's optimiser (`MultiTaskTrainer` puts it there): one for each task, whose
    gradient exp(s_i) L_i - 1 is added in every step that the task takes part in. State: s, by task.

    Source: Liu et al. 2021, *Towards Impartial Multi-task Learning*, ICLR, equation 6.
    """

    sign: ClassVar[float] = -1.0
    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant", "needs_losses"})
    results_version: ClassVar[int] = 2

    def weigh(self, scales: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
        weights = scales.exp()
        return weights, weights * losses - 1
