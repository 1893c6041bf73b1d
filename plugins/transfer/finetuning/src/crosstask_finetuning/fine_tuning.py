"""The `fine_tuning` transfer method."""

from __future__ import annotations

import torch
from torch import nn

from crosstask.learning.fleets import Phase
from crosstask.learning.training import History, fit
from crosstask.options import component
from crosstask.points.transfer import Transfer
from crosstask.records import Budget
from crosstask.tasks import Task


@component
class FineTuning(Transfer):
    """Trains every weight, starting from the source's.

    With a new head its first gradients are random and damage the trunk; `lp_ft` avoids that.
    """

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        return fit(model, task, budget, generator)

    def phases(self, budget: Budget) -> tuple[Phase, ...]:
        """The same, for fleets."""
        return (Phase(budget.steps),)
