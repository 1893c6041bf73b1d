"""The `feature_extraction` transfer method."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from crosstask.learning.fleets import Phase
from crosstask.learning.training import History
from crosstask.options import component, option
from crosstask.points.transfer import Transfer
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_finetuning.partial import fit_head


@component
class FeatureExtraction(Transfer):
    """Trains the head only. The trunk, its BatchNorm statistics included, stays bit for bit the source's."""

    results_version: ClassVar[int] = 2  # features of the trunk are computed once

    rate: float = option(10.0, gt=0, help="learning rate of the head, as a multiple of the budget's")

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        return fit_head(model, task, budget, generator, budget.steps, self.rate)

    def phases(self, budget: Budget) -> tuple[Phase, ...]:
        """The same, for fleets."""
        return (Phase(budget.steps, head=True, rate=self.rate),)
