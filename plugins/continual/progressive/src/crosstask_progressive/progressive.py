"""The `progressive` strategy."""

from __future__ import annotations

from typing import ClassVar

import torch

from crosstask.options import component, option, state
from crosstask.tasks import Task
from crosstask_continual import ContinualModel, ContinualStrategy
from crosstask_progressive.network import ProgressiveNetwork


@component
class Progressive(ContinualStrategy):
    """Progressive networks (Rusu et al. 2016): each task gets a column of its own, fed by the frozen ones before it.

    Nothing is forgotten, as nothing that was learned changes; the price is a network that grows with every task, and
    whose passes cost as much as those of all columns up to the task's. The model's network becomes a
    `ProgressiveNetwork`, whose first column has its weights.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"task"})
    unsuited: ClassVar[dict[str, str]] = dict.fromkeys(
        ("domain", "class"),
        "each task has a column of its own, and unless the task is told nothing says which to ask: the newest answers",
    )

    width: int = option(32, ge=1, help="features to which all earlier columns' activations are reduced for each layer")
    sizes: list[int] = state(factory=list)

    def task_begins(self, model: ContinualModel, task: Task) -> None:
        seed = int(torch.randint(2**31, (), generator=model.generator))
        self.sizes = [*self.sizes, model.outputs]
        self._network(model).add(seed, model.outputs)

    def resumes(self, model: ContinualModel) -> None:
        for size in self.sizes:
            self._network(model).add(0, size)

    def _network(self, model: ContinualModel) -> ProgressiveNetwork:
        if not isinstance(model.network, ProgressiveNetwork):
            told = model.scenario == "task"
            made = ProgressiveNetwork(model.network, model.outputs, self.width, told=told)
            model.network = made.train(model.network.training)
        return model.network
