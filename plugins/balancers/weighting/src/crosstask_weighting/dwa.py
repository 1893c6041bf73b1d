"""Weights from how fast each loss falls."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from crosstask import component, option, state
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.named import Kept, kept_of, names_of, with_kept
from crosstask.learning.gradients.solvers import to_array, to_tensor
from crosstask.points.balancer import Balancer


@component
class DWA(Balancer):
    """Dynamic weight average: T softmax(r / temperature), r_i the ratio of task i's last two mean losses.

    The paper takes means over epochs; here over `interval` steps in which the task takes part. T is the number of tasks
    in the step, and the ratio of a task without two means is 1. State, by task: both means, the sum so far, the number
    of its steps.

    Source: Liu, Johns, Davison 2019, *End-to-End Multi-Task Learning with Attention*, arXiv:1803.10704, equation 7.
    """

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant", "needs_losses"})
    results_version: ClassVar[int] = 2

    temperature: float = option(2.0, help="larger is nearer to equal weights", gt=0)
    interval: int = option(100, help="steps that a mean is taken over", ge=1)

    total: Kept = state(factory=dict)
    last_mean: Kept = state(factory=dict)
    mean_before: Kept = state(factory=dict)
    updates: Kept = state(factory=dict)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        names = names_of(self.origin, gradients, self.updates)
        values = to_array(losses)
        last, before = kept_of(self.last_mean, names), kept_of(self.mean_before, names)
        known = np.array([name in self.mean_before for name in names])
        rate = np.divide(last, before, out=np.ones_like(last), where=known & (before != 0)) / self.temperature
        answer = np.exp(rate - rate.max())
        answer *= len(values) / answer.sum()
        total, updates = kept_of(self.total, names) + values, kept_of(self.updates, names) + 1
        full = updates % self.interval == 0
        ended = [name for name, now in zip(names, full, strict=True) if now]
        again = [name for name in ended if name in self.last_mean]
        self.mean_before = with_kept(self.mean_before, again, kept_of(self.last_mean, again))
        self.last_mean = with_kept(self.last_mean, ended, total[full] / self.interval)
        self.total = with_kept(self.total, names, np.where(full, 0.0, total))
        self.updates = with_kept(self.updates, names, updates)
        return to_tensor(answer, losses)
