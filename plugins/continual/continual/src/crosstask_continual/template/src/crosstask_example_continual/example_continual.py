"""The hardest samples of each task, learned again."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from crosstask.options import component, option, state
from crosstask.tasks import Task
from crosstask_continual import Batch, ContinualModel, ContinualStrategy


@component
class ExampleContinual(ContinualStrategy):
    """When a task ends, its `keep` samples with the largest loss are kept, and learned with every later batch."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"task", "domain", "class"})

    keep: int = option(8, ge=1, help="samples of each task")
    kept: list[Tensor] = state(factory=list)

    def replay(self, batch: Batch) -> Batch | None:
        if not self.kept:
            return None
        inputs, targets, task_ids = self.kept
        return Batch(inputs, targets, task_ids)

    def task_ends(self, model: ContinualModel, task: Task) -> None:
        data = model.data(task)
        with torch.no_grad():
            losses = model.loss(model(data.inputs, data.task_ids), data, reduction="none")
        hardest = data.part(losses.topk(min(self.keep, len(data))).indices)
        new = [hardest.inputs, hardest.targets, hardest.task_ids]
        # A new list: a state that was taken before must stay as it is.
        self.kept = [torch.cat(pair) for pair in zip(self.kept, new, strict=True)] if self.kept else new
