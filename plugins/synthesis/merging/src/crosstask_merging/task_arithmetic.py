"""The `task_arithmetic` synthesizer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from crosstask.options import component, option
from crosstask_merging.merger import Ingredients, Merger, linear


@component
class TaskArithmetic(Merger):
    """base + strength * Σ (model - base) (Ilharco et al. 2023, section 4).

    Weights of the models make it strength * n * Σ weight * (model - base), for n models.
    """

    strength: float | None = option(None, help="factor of the sum of task vectors; default: one over their number")

    def tensor(self, name: str, given: Ingredients, prepared: Any) -> Tensor:
        factor = 1.0 if self.strength is None else self.strength * len(given.models)
        return given.start(name).add_(linear(given.vectors(name), given.weights), alpha=factor)
