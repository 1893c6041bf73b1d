"""The `gradual_unfreezing` transfer method."""

from __future__ import annotations

import torch
from torch import nn

from crosstask.learning.modules import head_of
from crosstask.learning.training import History
from crosstask.options import component, option
from crosstask.points.transfer import Transfer
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_finetuning.partial import fit_part


@component
class GradualUnfreezing(Transfer):
    """Trains the head, then the head and the top of the trunk, and so on down (Howard and Ruder 2018, section
    3.3).

    The trunk's layers (modules that hold parameters themselves) are divided into `stages - 1` groups of about
    equal number, by their order in the model; the budget's steps are divided evenly among the stages. What is
    still frozen stays bit for bit as it was.
    """

    stages: int = option(3, ge=2, help="the head alone is the first, everything the last")
    head_rate: float = option(10.0, gt=0, help="learning rate of the head alone, as a multiple of the budget's")

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        head = head_of(model)
        inside = set(head.modules())
        layers = [m for m in model.modules() if m not in inside and list(m.parameters(recurse=False))][::-1]
        stages = min(self.stages, len(layers) + 1, budget.steps)
        history = History()
        for stage in range(stages):
            steps = budget.steps * (stage + 1) // stages - budget.steps * stage // stages
            free = -(-len(layers) * stage // (stages - 1)) if stage else 0
            live = [head, *layers[:free]]
            rate = 1.0 if stage else self.head_rate
            history.extend(fit_part(model, live, task, budget, generator, steps, rate))
        return history
