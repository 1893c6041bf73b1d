"""Random weights."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from crosstask import component, option, state
from crosstask.learning.gradients import TaskGradients
from crosstask.points.balancer import Balancer


@component
class RLW(Balancer):
    """Random convex weights, drawn anew in every step: a baseline that tells how much of a method's gain is noise.

    `normal` and `uniform` draws go through a softmax; `dirichlet` is uniform over the simplex; `bernoulli` is the
    mean of a random non-empty set of tasks. Numbers come from a generator seeded by the run and the number of updates
    (state).

    Source: Lin, Ye, Zhang, Tsang 2022, *Reasonable Effectiveness of Random Weighting*, arXiv:2111.10603, section 3.
    """

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"scale_equivariant", "linear_under_scaling", "convex_weights", "stochastic"}
    )

    distribution: Literal["normal", "uniform", "dirichlet", "bernoulli"] = option(
        "normal", help="what weights are drawn from"
    )

    updates: int = state(0)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        generator = self.context.generator("rlw", self.updates)
        self.updates += 1
        count = len(losses)
        if self.distribution == "normal":
            weights = torch.randn(count, generator=generator, dtype=torch.float64).softmax(0)
        else:
            weights = torch.rand(count, generator=generator, dtype=torch.float64)
            if self.distribution == "uniform":
                weights = weights.softmax(0)
            elif self.distribution == "dirichlet":  # exponential draws, normalised
                weights = -torch.log1p(-weights)
            else:
                weights = torch.maximum((weights < 0.5).double(), (weights == weights.min()).double())
        return (weights / weights.sum()).to(losses)
