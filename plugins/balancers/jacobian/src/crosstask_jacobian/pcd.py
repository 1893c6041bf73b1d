"""Descent of one task that leaves every other a part of its own progress."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from crosstask import component, option, state
from crosstask.errors import RunError, nearest
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.named import Kept, given_to, kept_of, names_of, with_kept
from crosstask.learning.gradients.solvers import (
    Array,
    UnitGramian,
    gram_array,
    inverse,
    nonnegative_qp,
    rounding_of,
    to_tensor,
)
from crosstask.points.balancer import Balancer


@component
class PCD(Balancer):
    """Priority-constrained descent: the direction nearest to the primary task's gradient that gives each other task at
    least the part `tau` of the progress along its own.

    With normalised gradients n_i = g_i / √(v_i + eps), v_i the running mean of |g_i|² (with its bias taken out), d
    minimises |d - n_1|² subject to n_j·d >= tau |n_j|² for the others: d = n_1 + Σ μ_j n_j with the μ >= 0 of one
    non-negative quadratic program in the Gram matrix. The update is d with the length of g_1. Where the constraints
    contradict each other they are left out, and the update is g_1; it is zero where g_1 is.

    The primary task is the first of the step, or the one that `primary` names: do so where steps have only some of the
    tasks. RunError if it is not in the step. State, by task: v and the number of updates.

    Source: Varam & AlHajri 2026, *Not All Objectives Are Born Equal: Priority-Constrained Descent for Hierarchical
    Multi-Objective Optimization*, arXiv:2606.29521; the paper lists the active constraints one set after another.
    """

    primary: str | None = option(None, help="the task that comes first; the first of the step if not given")
    tau: float | dict[str, float] = option(
        0.02, help="part of its own progress that every other task gets, one for all or by name", ge=0, le=1
    )
    beta: float = option(0.999, help="how much of the mean squared lengths is kept", ge=0, lt=1)
    eps: float = option(1e-8, help="added to the mean squared lengths", ge=0)

    average: Kept = state(factory=dict)
    updates: Kept = state(factory=dict)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        names = names_of(self.origin, gradients, self.updates)
        first = self._place(names)
        wanted = self._wanted(names[first], gradients)
        gramian = gram_array(gradients)
        updates = kept_of(self.updates, names) + 1
        average = self.beta * kept_of(self.average, names) + (1 - self.beta) * gramian.diagonal()
        self.average, self.updates = with_kept(self.average, names, average), with_kept(self.updates, names, updates)
        scale = inverse(np.sqrt(average / (1 - self.beta**updates) + self.eps))
        unit = UnitGramian.of(gradients, scale)
        if not unit.live[first]:
            return to_tensor(np.zeros(len(names)), losses)
        weights = scale * unit.weights(prioritised(unit, int(unit.live[:first].sum()), wanted[unit.live]))
        length = math.sqrt(max(float(weights @ gramian @ weights), 0.0))
        sizes = np.sqrt(np.maximum(gramian.diagonal(), 0.0))
        if length <= math.sqrt(10 * rounding_of(gradients)) * float(np.abs(weights) @ sizes):
            return to_tensor(np.zeros(len(names)), losses)  # the gradients cancel each other
        return to_tensor(weights * (sizes[first] / length), losses)

    def _place(self, names: tuple[str, ...]) -> int:
        if self.primary is None:
            return 0
        if self.primary not in names:
            raise RunError(
                f"{self.origin}: the primary task {self.primary!r} is not in the step{nearest(self.primary, names)}"
            )
        return names.index(self.primary)

    def _wanted(self, primary: str, gradients: TaskGradients) -> Array:
        if isinstance(self.tau, dict):
            return given_to(self.origin, "tau", {primary: 0.0, **self.tau}, gradients)
        return np.full(gradients.tasks, self.tau)


def prioritised(unit: UnitGramian, first: int, wanted: Array) -> Array:
    """Weights [K] of the unit gradients, by how much of its own length [K] each is to gain; that of the primary task
    alone where no direction gives all of them that much.
    """
    others = np.arange(len(unit.norms)) != first
    found = np.where(others, 0.0, unit.norms)
    missing = wanted * unit.norms - unit.cosines[:, first] * unit.norms[first]
    cosines, missing = unit.cosines[np.ix_(others, others)], missing[others]
    size, added, last = float(unit.norms.max()), np.zeros(len(missing)), np.inf
    for _ in range(50):
        # The ridge gives even contradicting constraints a solution. Its pull is toward the last one, and so vanishes
        # where there is a solution (Rockafellar 1976, proximal point); else what is short of the constraints stays.
        added = nonnegative_qp(cosines, -(missing + unit.ridge * added)[:, None])[:, 0]
        short = float((missing - cosines @ added + unit.ridge * added).max(initial=0.0))
        if short <= 10 * unit.ridge * size or short > 0.99 * last:
            break
        last = short
    if short <= math.sqrt(unit.ridge) * size:
        found[others] = added
    return found
