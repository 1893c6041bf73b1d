"""Weights that let all losses fall at the same rate, from losses alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor

from crosstask import component, option, state
from crosstask.errors import RunError
from crosstask.learning.gradients import MatrixGradients, TaskGradients
from crosstask.learning.gradients.named import Kept, given_to, kept_of, names_of, with_kept
from crosstask.learning.gradients.solvers import Array, adam_step, to_array, to_tensor
from crosstask.points.balancer import Balancer

TINY = 1e-8


@component
class FAMO(Balancer):
    """Lets losses fall at equal relative rates: convex weights ∝ z_i / D_i, z = softmax(ξ), D_i = L_i - minimum_i.

    ξ follows, by Adam with weight decay, which losses fell least in the last step: with δ_i = log D_i(before) - log
    D_i(after), its gradient is that of z·δ. The paper evaluates the same batch again after the step: call
    `update(losses)` with those losses for that. Without a call the losses of the next step, on another batch, stand
    in for them, which costs no forward pass and adds noise.

    State, by task: ξ, the optimiser's moments and its steps, the last D. In a step with only some of the tasks z is
    over these, and a task's last step is the last in which it took part. RunError if a loss is not above its minimum.

    Source: Liu, Feng, Stone, Liu 2023, *FAMO*, arXiv:2306.03792, equations 8 and 9, algorithm 1.
    """

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"permutation_invariant", "scale_equivariant", "convex_weights", "needs_losses"}
    )
    results_version: ClassVar[int] = 2

    learning_rate: float = option(0.025, help="step size for the logits ξ", gt=0)
    weight_decay: float = option(1e-3, help="decay of the logits", ge=0)
    minimum: tuple[float, ...] | dict[str, float] | None = option(
        None, help="lowest possible loss of each task, in their order or by name; 0 if not given"
    )

    logits: Kept = state(factory=dict)
    first_moments: Kept = state(factory=dict)
    second_moments: Kept = state(factory=dict)
    heights: Kept = state(factory=dict)
    updates: Kept = state(factory=dict)
    asked: list[str] = state(factory=list)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        names = names_of(self.origin, gradients, self.logits)
        height = self._above(losses, gradients)
        self._follow(names, height)
        self.logits = with_kept(self.logits, names, kept_of(self.logits, names))
        self.heights, self.asked = with_kept(self.heights, names, height), list(names)
        weights = _softmax(kept_of(self.logits, names)) / height
        return to_tensor(weights / weights.sum(), losses)

    def update(self, losses: Tensor) -> None:
        """Tell the losses [T] of the last batch again, after the optimiser's step."""
        if not self.asked or self.asked[0] not in self.heights:
            raise RunError(f"{self.origin}: update before the first step")
        lazy = MatrixGradients(losses[:, None], self.asked)
        self._follow(self.asked, self._above(losses, lazy))
        self.heights = {name: height for name, height in self.heights.items() if name not in self.asked}

    def _above(self, losses: Tensor, gradients: TaskGradients) -> Array:
        values = to_array(losses)
        least = 0.0 if self.minimum is None else given_to(self.origin, "minimum", self.minimum, gradients)
        height = values - least + TINY
        if not (height > 0).all():
            raise RunError(f"{self.origin}: losses must be above their minimum, got {values.tolist()}")
        return height

    def _follow(self, given: Sequence[str], now: Array) -> None:
        """A step of ξ for those of the tasks whose last losses are known, from how far these fell."""
        known = np.array([name in self.heights for name in given])
        if not known.any():
            return
        names = [name for name in given if name in self.heights]
        fell = np.log(kept_of(self.heights, names)) - np.log(now[known])
        logits, updates = kept_of(self.logits, names), kept_of(self.updates, names) + 1
        z = _softmax(logits)
        moments = np.stack([kept_of(self.first_moments, names), kept_of(self.second_moments, names)])
        logits, moments = adam_step(
            logits, z * (fell - z @ fell), moments, updates, self.learning_rate, self.weight_decay
        )
        self.logits, self.updates = with_kept(self.logits, names, logits), with_kept(self.updates, names, updates)
        self.first_moments = with_kept(self.first_moments, names, moments[0])
        self.second_moments = with_kept(self.second_moments, names, moments[1])


def _softmax(values: Array) -> Array:
    raised = np.exp(values - values.max())
    return np.asarray(raised / raised.sum())
