"""Random weights of the gradients."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from crosstask import component, state
from crosstask.learning.gradients import TaskGradients
from crosstask.points.balancer import Balancer


@component
class RGW(Balancer):
    """Random gradient weighting: convex weights of the shared gradients, the softmax of normal draws, anew in every
    step.

    `rlw` draws alike, and weighs whole losses, task-specific parameters included; these keep their plain gradients
    here. As that one a baseline: what another method gains beyond it is not chance. Numbers come from a generator
    seeded by the run and the number of updates (state).

    Source: Lin, Ye, Zhang, Tsang 2022, *Reasonable Effectiveness of Random Weighting*, arXiv:2111.10603, section 3.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"scale_equivariant", "linear_under_scaling", "convex_weights", "stochastic"}
    )

    updates: int = state(0)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        generator = self.context.generator("rgw", self.updates)
        self.updates += 1
        return torch.randn(len(losses), generator=generator, dtype=torch.float64).softmax(0).to(losses)
