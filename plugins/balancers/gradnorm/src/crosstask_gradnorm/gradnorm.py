"""Loss weights that equalise gradient norms, with the gradient of GradNorm's loss in closed form."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from crosstask import component, option, state
from crosstask.errors import RunError
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.named import Kept, kept_of, names_of, with_kept
from crosstask.learning.gradients.solvers import (
    Array,
    adam_step,
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
    State, by task: the weight, L(0), the optimiser's moments and its steps. In a step with only some of the tasks
    G, Ḡ and r are over these, and they divide among them the weight that they had together; a new task comes with
    weight 1. RunError if an initial loss is not positive.

    Source: Chen, Badrinarayanan, Lee, Rabinovich 2018, *GradNorm*, arXiv:1711.02257, equations 1 and 2,
    algorithm 1.
    """

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "needs_losses"})
    results_version: ClassVar[int] = 2

    alpha: float = option(0.12, help="how strongly slow tasks are favoured; 0 only equalises the norms", ge=0)
    learning_rate: float = option(0.025, help="step size for the weights", gt=0)
    optimizer: Literal["adam", "sgd"] = option("adam", help="how the weights are trained")

    weights: Kept = state(factory=dict)
    initial: Kept = state(factory=dict)
    first_moments: Kept = state(factory=dict)
    second_moments: Kept = state(factory=dict)
    updates: Kept = state(factory=dict)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        names = names_of(self.origin, gradients, self.updates)
        values, norms = to_array(losses), norms_of(gram_array(gradients))
        new = np.array([name not in self.initial for name in names])
        if not (values[new] > 0).all():
            raise RunError(f"{self.origin}: the first losses must be positive, got {values.tolist()}")
        initial = np.where(new, values, kept_of(self.initial, names))
        weights, updates = kept_of(self.weights, names, 1.0), kept_of(self.updates, names) + 1
        answer, together = to_tensor(weights, losses), weights.sum()
        slope = slopes(weights, norms, values / initial, self.alpha)
        if self.optimizer == "adam":
            moments = np.stack([kept_of(self.first_moments, names), kept_of(self.second_moments, names)])
            weights, moments = adam_step(weights, slope, moments, updates, self.learning_rate)
            self.first_moments = with_kept(self.first_moments, names, moments[0])
            self.second_moments = with_kept(self.second_moments, names, moments[1])
        else:
            weights = weights - self.learning_rate * slope
        weights = np.maximum(weights, LEAST)
        self.weights = with_kept(self.weights, names, weights * (together / weights.sum()))
        self.initial = with_kept(self.initial, names, initial)
        self.updates = with_kept(self.updates, names, updates)
        return answer


def slopes(weights: Array, norms: Array, progress: Array, alpha: float) -> Array:
    """∂L_grad/∂w [T] for weights, gradient norms and L/L(0), each [T]."""
    scaled = weights * norms
    progress = np.maximum(progress, 0)
    rate = progress / progress.mean() if progress.any() else np.ones_like(progress)
    return np.sign(scaled - scaled.mean() * rate**alpha) * norms
