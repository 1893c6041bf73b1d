"""The `lwf` strategy."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.learning.modules import copy_of
from crosstask.options import component, option
from crosstask.tasks import Task
from crosstask_continual import Batch, ContinualModel, ContinualStrategy


@component
class LwF(ContinualStrategy):
    """Learning without forgetting (Li and Hoiem 2016): on the new task's inputs the model keeps its earlier answers.

    The teacher is the network as it was before the task, in evaluation mode; temperature² times the divergence of the
    student's softened answers from the teacher's is added (Hinton et al. 2015). In scenario `task` each earlier task's
    head is compared by itself, and their losses are summed; in `class` the teacher speaks of the classes that it knows
    and the student's softmax is over all classes seen: the new ones must not grow at the old ones' cost.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"task", "domain"})
    unsuited: ClassVar[dict[str, str]] = {
        "class": "its teacher has never seen the new classes, and the student sees no inputs of the old ones, so that "
        "new classes win nearly always; combine it with replay"
    }

    weight: float = option(1.0, ge=0, help="of the distillation, beside the loss of the task")
    temperature: float = option(2.0, gt=0, help="softens both answers")
    _teacher: nn.Module | None = attrs.field(default=None, init=False, repr=False)

    def task_begins(self, model: ContinualModel, task: Task) -> None:
        self._teacher = None
        if model.current > 0 and self.weight:
            self._teacher = copy_of(model.network).eval().requires_grad_(False)

    def penalty(self, model: ContinualModel, batch: Batch, outputs: Tensor) -> Tensor | None:
        if self._teacher is None:
            return None
        with torch.no_grad():
            given = (batch.inputs, batch.task_ids) if model.takes_tasks else (batch.inputs,)
            wanted = self._teacher(*given)
        total = outputs.new_zeros(())
        for theirs, ours in _compared(model):
            total = total + self._divergence(outputs[:, ours], wanted[:, theirs])
        return self.weight * total

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        logs = functional.log_softmax(student / self.temperature, dim=1)[:, : teacher.shape[1]]
        goal = functional.softmax(teacher / self.temperature, dim=1)
        return self.temperature**2 * functional.kl_div(logs, goal, reduction="batchmean")

    def task_ends(self, model: ContinualModel, task: Task) -> None:
        self._teacher = None


def _compared(model: ContinualModel) -> list[tuple[slice, slice]]:
    """Outputs of the teacher, and those of the student that its answer over them is compared with."""
    if model.scenario == "task":
        spans = [model.span(number) for number in range(model.current)]
        return [(span, span) for span in spans]
    if model.scenario == "domain":
        return [(slice(None), slice(None))]
    old = 1 + max(column for columns in model.columns[:-1] for column in columns)
    return [(slice(0, old), slice(0, model.seen))]
