"""What is trained in fleets, for tests that compare with the loop."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor, nn

from crosstask import Budget, Task, Transfer, component
from crosstask.learning.fleets import Phase
from crosstask.learning.training import History, fit


@component
class InPhases(Transfer):
    """Fine-tuning that says its phases: learners and their controls go together. `alone`: seeds that went alone."""

    alone: list[int] = attrs.field(factory=list, init=False)

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        self.alone.append(generator.initial_seed())
        return fit(model, task, budget, generator)

    def phases(self, budget: Budget) -> tuple[Phase, ...]:
        return (Phase(budget.steps),)


class Double(nn.Module):
    """A network in double precision: data are kept in single precision, and become double here."""

    def __init__(self, inputs: int = 4) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(inputs, 8), nn.Linear(8, 3)
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(inputs.double()).relu())
        return found
