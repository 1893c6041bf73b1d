"""Weights that let all losses fall at the same rate, from losses alone."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from crosstask import component, option, state
from crosstask.errors import RunError
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.solvers import Array, adam_step, check_tasks, to_array, to_tensor
from crosstask.points.balancer import Balancer

TINY = 1e-8


@component
class FAMO(Balancer):
    """Lets losses fall at equal relative rates: convex weights ∝ z_i / D_i, z = softmax(ξ), D_i = L_i - minimum_i.

    ξ follows, by Adam with weight decay, which losses fell least in the last step: with δ_i = log D_i(before) - log
    D_i(after), its gradient is that of z·δ. The paper evaluates the same batch again after the step: call
    `update(losses)` with those losses for that. Without a call the losses of the next step, on another batch, stand
    in for them, which costs no forward pass and adds noise.

    State: ξ, the optimiser's moments, the last losses. RunError if a loss is not above its minimum, or if the number of
    tasks changes.

    Source: Liu, Feng, Stone, Liu 2023, *FAMO*, arXiv:2306.03792, equations 8 and 9, algorithm 1.
    """

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"permutation_invariant", "scale_equivariant", "convex_weights", "needs_losses"}
    )

    learning_rate: float = option(0.025, help="step size for the logits ξ", gt=0)
    weight_decay: float = option(1e-3, help="decay of the logits", ge=0)
    minimum: tuple[float, ...] | None = option(None, help="lowest possible loss of each task; 0 if not given")

    logits: Tensor | None = state(None)
    moments: Tensor | None = state(None)
    last_losses: Tensor | None = state(None)
    updates: int = state(0)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        height = self._above(losses)
        if self.last_losses is not None:
            self._follow(height)
        if self.logits is None:
            self.logits = torch.zeros(len(height), dtype=torch.float64)
        self.last_losses = torch.from_numpy(height)
        weights = _softmax(to_array(self.logits)) / height
        return to_tensor(weights / weights.sum(), losses)

    def update(self, losses: Tensor) -> None:
        """Tell the losses [T] of the last batch again, after the optimiser's step."""
        if self.last_losses is None:
            raise RunError(f"{self.origin}: update before the first step")
        self._follow(self._above(losses))
        self.last_losses = None

    def _above(self, losses: Tensor) -> Array:
        values = to_array(losses)
        if self.logits is not None:
            check_tasks(self.origin, len(self.logits), len(values))
        if self.minimum is not None and len(self.minimum) != len(values):
            raise RunError(f"{self.origin}: minimum has {len(self.minimum)} numbers for {len(values)} tasks")
        height = values - np.asarray(self.minimum if self.minimum is not None else 0.0) + TINY
        if not (height > 0).all():
            raise RunError(f"{self.origin}: losses must be above their minimum, got {values.tolist()}")
        return height

    def _follow(self, height: Array) -> None:
        assert self.last_losses is not None
        assert self.logits is not None
        logits = to_array(self.logits)
        moments = np.zeros((2, len(logits))) if self.moments is None else to_array(self.moments)
        fell = np.log(to_array(self.last_losses)) - np.log(height)
        z = _softmax(logits)
        self.updates += 1
        logits, moments = adam_step(
            logits, z * (fell - z @ fell), moments, self.updates, self.learning_rate, self.weight_decay
        )
        self.logits, self.moments = torch.from_numpy(logits), torch.from_numpy(moments)


def _softmax(values: Array) -> Array:
    raised = np.exp(values - values.max())
    return np.asarray(raised / raised.sum())
