"""A trunk for all, two layers for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from crosstask.errors import DataError, nearest
from crosstask.learning import seeded
from crosstask.options import component, option
from crosstask.tasks import Task
from crosstask_multitask import MultiTaskModule, Sharing


class TrunkAndHeads(MultiTaskModule):
    """`heads` are in the order of `names`: a task's id need not be a valid name of a module."""

    def __init__(self, trunk: nn.Module, names: Sequence[str], heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.trunk, self.names, self.heads = trunk, list(names), nn.ModuleList(heads)

    def head(self, task_id: str) -> nn.Module:
        if task_id not in self.names:
            raise DataError(f"no head for task {task_id!r}{nearest(task_id, self.names)}")
        return self.heads[self.names.index(task_id)]

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        heads = {task_id: self.head(task_id) for task_id in inputs}
        return {task_id: head(self.trunk(inputs[task_id])) for task_id, head in heads.items()}

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        return self.trunk.parameters()

    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        return self.head(task_id).parameters()


@component
class ExampleSharing(Sharing):
    """Each task gets a ReLU layer of `hidden` units and a linear head on the features [N, F] of the trunk."""

    hidden: int = option(16, ge=1, help="width of each task's own layer")

    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        if not tasks:
            raise DataError("no tasks to build heads for")
        return TrunkAndHeads(trunk, [task.task_id for task in tasks], [self._head(task, trunk) for task in tasks])

    def _head(self, task: Task, trunk: nn.Module) -> nn.Module:
        if task.descriptor.output_dim is None or not task.descriptor.input_shape:
            raise DataError(f"task {task.task_id!r}: a head needs input_shape and output_dim in the descriptor")
        like = next(trunk.parameters())
        with torch.no_grad(), seeded(self.context.seed_for("example_sharing", task.task_id)):
            width = trunk(torch.zeros(2, *task.descriptor.input_shape).to(like)).shape[1]
            layers = [nn.Linear(width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, task.descriptor.output_dim)]
            return nn.Sequential(*layers).to(like)
