"""The `lp_ft` transfer method."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from crosstask.learning.fleets import Phase
from crosstask.learning.training import History, fit
from crosstask.options import component, option
from crosstask.points.transfer import Transfer
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_finetuning.partial import fit_head


@component
class LPFT(Transfer):
    """Fits the head on the frozen trunk first (a linear probe), then fine-tunes everything (Kumar et al.
    2022).

    A random head sends random gradients into the trunk and wrecks what was to be transferred; one that fits
    does not. The budget's steps are divided between the two phases.
    """

    results_version: ClassVar[int] = 2  # features of the trunk are computed once

    head_share: float = option(0.5, gt=0, lt=1, help="share of the steps for the head alone")
    head_rate: float = option(10.0, gt=0, help="learning rate of the head alone, as a multiple of the budget's")

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        first, then = self.phases(budget)
        history = fit_head(model, task, budget, generator, first.steps, first.rate)
        return history.extend(fit(model, task, budget, generator, steps=then.steps))

    def phases(self, budget: Budget) -> tuple[Phase, ...]:
        """The same, for fleets."""
        first = round(self.head_share * budget.steps)
        return Phase(first, head=True, rate=self.head_rate), Phase(budget.steps - first)
