"""The `adapter` transfer method."""

from __future__ import annotations

import attrs
import torch
from torch import nn

from crosstask.learning.modules import head_found, head_of
from crosstask.learning.training import History, fit
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.transfer import Transfer
from crosstask.records import Budget
from crosstask.tasks import Task


@component
class AdapterTransfer(Transfer):
    """Trains the head, then the head and an adapter, while the source's own weights stay frozen (as in Houlsby et al.
    2019, section 3; the head first, as in Kumar et al. 2022).

    `adapter` names any registered one. Afterwards the adapter is a part of the model: where it can be merged, plain
    weights are left, so that the model can be the source of further transfers; else its layers stay in the model.
    """

    adapter: Part = part("adapter", help="which adapter, with its options")
    head_share: float = option(0.5, ge=0, lt=1, help="share of the steps for the head alone")
    head_rate: float = option(10.0, gt=0, help="learning rate of the head alone, as a multiple of the budget's")
    rate: float = option(3.0, gt=0, help="learning rate of head and adapter, as a multiple of the budget's")

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        (adapter,) = self.made_of("adapter")
        head = [p for p in head_of(model).parameters() if p.requires_grad]
        module = head_found(model).module
        handle = adapter.attach(model, [] if module is None else [f"!{module}"], generator)
        try:
            for parameter in head:
                parameter.requires_grad_(True)
            first = round(self.head_share * budget.steps)
            history = History()
            if first:
                alone = attrs.evolve(budget, learning_rate=self.head_rate * budget.learning_rate)
                history = fit(model, task, alone, generator, steps=first, parameters=head)
            both = attrs.evolve(budget, learning_rate=self.rate * budget.learning_rate)
            trained = [*handle.parameters(), *head]
            return history.extend(fit(model, task, both, generator, steps=budget.steps - first, parameters=trained))
        finally:
            handle.absorb()
