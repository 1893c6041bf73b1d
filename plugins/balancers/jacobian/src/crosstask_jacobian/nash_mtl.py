"""The bargaining solution of the tasks."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from torch import Tensor

from crosstask import component, option, state
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.named import Kept, kept_of, with_kept
from crosstask.learning.gradients.solvers import UnitGramian, gram_array, proportional_weights, to_tensor
from crosstask.points.balancer import Balancer


@component
class NashMTL(Balancer):
    """The update that maximises the product of the tasks' gains: positive weights with G α = 1/α, G the Gram matrix.

    Solved exactly by Newton's method on the strictly convex α·Gα/2 - Σ log α, started from the last solution; the
    authors' code approximates it by a sequence of conic programs. Every task gains, and scaling one task's loss changes
    nothing. The update Σ α_i g_i has the squared length α·Gα = Σ α_i / α_i = T, however long the gradients are: the
    paper's, in which they fix the direction alone. As in the authors' code it is then cut back to `max_norm`, which
    with the default makes every update one of length 1: the learning rate says how long steps are, and must fall for
    training to settle.

    Between two `update_interval`s the last weights are used again, as long as the tasks are the same: α belongs to all
    of them together. A zero gradient gets weight 0. State: α, by task.

    Source: Navon et al. 2022, *Multi-Task Learning as a Bargaining Game*, arXiv:2202.01017, claim 3.1, algorithm 1;
    of the length also github.com/AvivNavon/nash-mtl, issue 7.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "non_conflicting"})
    results_version: ClassVar[int] = 3

    max_norm: float = option(1.0, help="longest update; 0 for no limit, which is √T", ge=0)
    update_interval: int = option(1, help="solve for the weights every so many updates", ge=1)

    weights: Kept = state(factory=dict)
    solved: list[str] = state(factory=list)
    updates: int = state(0)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        names, known = gradients.names, kept_of(self.weights, gradients.names)
        self.updates += 1
        if set(names) == set(self.solved) and (self.updates - 1) % self.update_interval:
            return to_tensor(known, losses)
        unit = UnitGramian.of(gradients)
        start = known[unit.live] * unit.norms
        found = unit.weights(
            proportional_weights(
                unit.cosines, np.ones(len(unit.norms)), 1.0, start if len(start) and (start > 0).all() else None
            )
        )
        gramian = gram_array(gradients)
        length = math.sqrt(max(float(found @ gramian @ found), 0.0))
        if 0 < self.max_norm < length:
            found = found * (self.max_norm / length)
        self.weights, self.solved = with_kept(self.weights, names, found), list(names)
        return to_tensor(found, losses)
