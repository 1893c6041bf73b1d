"""Loss weights that equalise gradient norms, with the gradient of GradNorm's loss in closed form."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from crosstask import component, option, state
from crosstask.errors import RunError
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.solvers import (
    Array,
    adam_step,
    check_tasks,
    gram_array,
    norms_of,
    to_array,
    to_tensor,
)
from crosstask.points.balancer import Balancer

LEAST = 1e-3
"""Weights stay above this part of the mean weight: a task that once fell silent can return."""


@component
class GradNorm(Balancer):
    """Loss weights w [T], positive with sum T, trained so that slow tasks get larger gradients.

    With n_i = |∇ L_i| on the shared parameters, G_i = w_i n_i, Ḡ their mean, and the inverse training rate
    r_i = (L_i / L_i(0)) / mean_j (L_j / L_j(0)), the weights descend

        L_grad = Σ_i |G_i - Ḡ r_i^alpha|,     ∂L_grad/∂w_i = sign(G_i - target_i) n_i,

    the targets being constants, with an optimiser of their own, and are then renormalised to sum to T. L_grad
    is never added to the training loss: nothing but w is trained by it. The weights returned are those from
    before the step, ones in the first, whose losses become L(0).

    The paper takes the norms on the last shared layer only; here they are those on everything that is shared.
    State: the weights, L(0), the optimiser's moments. RunError if an initial loss is not positive, or if the
    number of tasks changes (the weights belong to certain tasks).

    Source: Chen, Badrinarayanan, Lee, Rabinovich 2018, *GradNorm*, arXiv:1711.02257, equations 1 and 2,
    algorithm 1.
    """

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "needs_losses"})

    alpha: float = option(0.12, help="how strongly slow tasks are favoured; 0 only equalises the norms", ge=0)
    learning_rate: float = option(0.025, help="step size for the weights", gt=0)
    optimizer: Literal["adam", "sgd"] = option("adam", help="how the weights are trained")

    weights: Tensor | None = state(None)
    initial: Tensor | None = state(None)
    moments: Tensor | None = state(None)
    updates: int = state(0)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        values, norms = to_array(losses), norms_of(gram_array(gradients))
        count = len(values)
        if self.weights is None or self.initial is None or self.moments is None:
            if not (values > 0).all():
                raise RunError(f"{self.origin}: the first losses must be positive, got {values.tolist()}")
            weights, initial, moments = np.ones(count), values, np.zeros((2, count))
        else:
            weights, initial, moments = map(to_array, (self.weights, self.initial, self.moments))
        check_tasks(self.origin, len(weights), count)
        answer = to_tensor(weights, losses)
        slope = slopes(weights, norms, values / initial, self.alpha)
        self.updates += 1
        if self.optimizer == "adam":
            weights, moments = adam_step(weights, slope, moments, self.updates, self.learning_rate)
        else:
            weights = weights - self.learning_rate * slope
        weights = np.maximum(weights, LEAST)
        self.weights = torch.from_numpy(weights * (count / weights.sum()))
        self.initial, self.moments = torch.from_numpy(initial), torch.from_numpy(moments)
        return answer


def slopes(weights: Array, norms: Array, progress: Array, alpha: float) -> Array:
    """∂L_grad/∂w [T] for weights, gradient norms and L/L(0), each [T]."""
    scaled = weights * norms
    progress = np.maximum(progress, 0)
    rate = progress / progress.mean() if progress.any() else np.ones_like(progress)
    return np.sign(scaled - scaled.mean() * rate**alpha) * norms
