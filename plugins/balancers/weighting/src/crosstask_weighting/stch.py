"""A smooth maximum of the losses."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from crosstask import component, option, state
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.named import Kept, given_to, kept_of, names_of, with_kept
from crosstask.learning.gradients.solvers import Array, to_array, to_tensor
from crosstask.points.balancer import Balancer

from .positive import positive


@component
class STCH(Balancer):
    """Minimises a smooth maximum of the losses, mu log Σ exp(p_i (f_i - ideal_i) / mu), p the `preferences`.

    With `warmup` 0 the f_i are the losses. Otherwise, as in the authors' multi-task code, Σ log L_i is minimised for
    that many steps of a task, its mean loss in them is taken as reference, and from then on f_i = log(L_i /
    reference_i), with T times the objective above (over those tasks of the step that have a reference) and p_i = 1. The
    smaller `mu`, the more the worst task counts.

    State, by task: the mean loss of the warm-up and the number of its steps. RunError if preferences or ideal losses
    are not those of the tasks, or, with a warm-up, if a loss is not positive.

    Source: Lin et al. 2024, *Smooth Tchebycheff Scalarization*, arXiv:2402.19078, equation 9.
    """

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant", "needs_losses"})
    results_version: ClassVar[int] = 2

    mu: float = option(0.1, help="width of the smoothing", gt=0)
    preferences: tuple[float, ...] | dict[str, float] | None = option(
        None, help="weight of each task, in their order or by name; 1/T if not given", gt=0
    )
    ideal: tuple[float, ...] | dict[str, float] | None = option(
        None, help="best possible loss of each task, in their order or by name; 0 if not given"
    )
    warmup: int = option(0, help="steps that make the reference for relative losses; 0 for plain losses", ge=0)

    reference: Kept = state(factory=dict)
    updates: Kept = state(factory=dict)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        count = len(losses)
        scale, ideal = np.full(count, 1 / count), np.zeros(count)
        if self.preferences is not None:
            scale = given_to(self.origin, "preferences", self.preferences, gradients)
        if self.ideal is not None:
            ideal = given_to(self.origin, "ideal", self.ideal, gradients)
        if self.warmup:
            names = names_of(self.origin, gradients, self.updates)
            return to_tensor(self._relative(names, to_array(positive(losses, self.origin))), losses)
        return to_tensor(scale * _softmax(scale * (to_array(losses) - ideal) / self.mu), losses)

    def _relative(self, names: tuple[str, ...], values: Array) -> Array:
        updates, reference = kept_of(self.updates, names) + 1, kept_of(self.reference, names)
        warm = updates > self.warmup
        reference = np.where(warm, reference, reference + values / self.warmup)
        weights = 1 / values
        if warm.any():
            weights[warm] *= warm.sum() * _softmax(np.log(values[warm] / reference[warm]) / self.mu)
        self.updates, self.reference = (
            with_kept(self.updates, names, updates),
            with_kept(self.reference, names, reference),
        )
        return weights


def _softmax(values: Array) -> Array:
    raised = np.exp(values - values.max())
    return np.asarray(raised / raised.sum())
