"""Weights from how fast each loss falls."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from crosstask import component, option, state
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.solvers import check_tasks, to_array, to_tensor
from crosstask.points.balancer import Balancer


@component
class DWA(Balancer):
    """Dynamic weight average: T softmax(r / temperature), r_i the ratio of task i's last two mean losses.

    The paper takes means over epochs; here over `interval` steps. Weights are ones until two means exist. State: both
    means, the sum so far, the number of steps. RunError if the number of tasks changes.

    Source: Liu, Johns, Davison 2019, *End-to-End Multi-Task Learning with Attention*, arXiv:1803.10704, equation 7.
    """

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant", "needs_losses"})

    temperature: float = option(2.0, help="larger is nearer to equal weights", gt=0)
    interval: int = option(100, help="steps that a mean is taken over", ge=1)

    total: Tensor | None = state(None)
    last_mean: Tensor | None = state(None)
    mean_before: Tensor | None = state(None)
    updates: int = state(0)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        values = to_array(losses)
        total = np.zeros(len(values)) if self.total is None else to_array(self.total)
        check_tasks(self.origin, len(total), len(values))
        answer = np.ones(len(values))
        if self.last_mean is not None and self.mean_before is not None:
            last, before = to_array(self.last_mean), to_array(self.mean_before)
            rate = np.divide(last, before, out=np.ones_like(last), where=before != 0) / self.temperature
            answer = np.exp(rate - rate.max())
            answer *= len(values) / answer.sum()
        total = total + values
        self.updates += 1
        if self.updates % self.interval == 0:
            self.mean_before, self.last_mean = self.last_mean, torch.from_numpy(total / self.interval)
            total = np.zeros(len(values))
        self.total = torch.from_numpy(total)
        return to_tensor(answer, losses)
