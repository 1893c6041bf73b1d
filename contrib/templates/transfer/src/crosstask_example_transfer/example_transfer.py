"""First the head, then all of it."""

from __future__ import annotations

import torch
from torch import nn

from crosstask.learning import History, fit, frozen, head_of, trunk_parameters
from crosstask.options import component, option
from crosstask.points.transfer import Transfer
from crosstask.records import Budget
from crosstask.tasks import Task


@component
class ExampleTransfer(Transfer):
    """`share` of the budget's steps go to the head with the trunk frozen, the rest to the whole model."""

    share: float = option(0.3, ge=0, le=1, help="share of the steps that train the head alone")

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        alone = min(budget.steps, round(self.share * budget.steps))
        history = History()
        if alone:
            with frozen(trunk_parameters(model)):
                history = fit(model, task, budget, generator, steps=alone, parameters=head_of(model).parameters())
        if alone < budget.steps:
            history.extend(fit(model, task, budget, generator, steps=budget.steps - alone))
        return history
