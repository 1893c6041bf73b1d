"""Training a part of a model while the rest stays exactly as it is."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.learning.modules import forward, frozen, head_of
from crosstask.learning.training import History, fit
from crosstask.records import Budget
from crosstask.tasks import Task


class Partial(nn.Module):
    """A model of which only the `live` modules are ever in training mode.

    The others keep evaluation mode whatever `train()` says: a BatchNorm that is not trained does not drift
    either, and dropout below the trained part is off.
    """

    whole_inputs = True

    def __init__(self, model: nn.Module, live: Sequence[nn.Module]) -> None:
        super().__init__()
        self.model = model
        self._live = list(live)  # in a list, so that they are not registered twice

    def train(self, mode: bool = True) -> Partial:
        self.training = mode
        self.model.eval()
        for module in self._live:
            module.train(mode)
        return self

    def forward(self, inputs: Tensor | MultiInput) -> Tensor:
        return forward(self.model, inputs)


def fit_part(
    model: nn.Module,
    live: Sequence[nn.Module],
    task: Task,
    budget: Budget,
    generator: torch.Generator,
    steps: int,
    rate: float = 1.0,
) -> History:
    """Train the parameters of the `live` modules for so many steps, with `rate` times the budget's learning
    rate.
    """
    trained = {id(p) for module in live for p in module.parameters()}
    rest = [p for p in model.parameters() if id(p) not in trained]
    faster = attrs.evolve(budget, learning_rate=rate * budget.learning_rate)
    mode = model.training
    try:
        with frozen(rest):
            return fit(Partial(model, live), task, faster, generator, steps=steps)
    finally:
        model.train(mode)


def fit_head(
    model: nn.Module, task: Task, budget: Budget, generator: torch.Generator, steps: int, rate: float = 1.0
) -> History:
    """Train the head only."""
    return fit_part(model, [head_of(model)], task, budget, generator, steps, rate)
