"""Gradients made orthogonal and equally long."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from crosstask import component, option
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.solvers import gram_array, rounding_of, to_tensor
from crosstask.points.balancer import Balancer

from .preference import Preferences, preference_weights


@component
class AlignedMTL(Balancer):
    """Replaces the gradient matrix by the nearest one with orthogonal rows of equal length, and weighs its rows.

    With the Gram matrix V diag(λ) Vᵀ the weights are sqrt(scale) V diag(λ^-1/2) Vᵀ p, p the `preferences` (mean if
    not given) and `scale` the smallest eigenvalue that is not zero (`min`, the paper), the `median` or their mean
    (`rmse`, the authors' other modes). Among conflict-free updates for independent gradients it is stable: the
    condition number of what is summed is 1.

    Source: Senushkin, Patakin, Kuznetsov, Konushin 2023, *Independent Component Alignment*, arXiv:2305.19000,
    algorithm 1.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant"})

    preferences: Preferences = option(
        None, help="weight of each task, in their order or by name; equal if not given", gt=0
    )
    scale: Literal["min", "median", "rmse"] = option("min", help="which eigenvalue the rows are scaled to")

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        gramian = gram_array(gradients)
        wanted = preference_weights(self, self.preferences, gradients)
        values, vectors = np.linalg.eigh(gramian)
        kept = values > len(gramian) * rounding_of(gradients) * values[-1]
        if not kept.any():
            return to_tensor(wanted, losses)  # all gradients are zero
        values, vectors = values[kept], vectors[:, kept]
        size = {"min": values[0], "median": values[(len(values) - 1) // 2], "rmse": values.mean()}[self.scale]
        return to_tensor((vectors * np.sqrt(size / values)) @ (vectors.T @ wanted), losses)
