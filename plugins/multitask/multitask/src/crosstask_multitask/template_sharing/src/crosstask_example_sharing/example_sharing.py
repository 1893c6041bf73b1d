"""A trunk for all, two layers for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from crosstask.errors import DataError, nearest
from crosstask.learning import seeded
from crosstask.learning.modules import forward
from crosstask.options import component, option
from crosstask.tasks import Task
from crosstask_multitask import MultiTaskModule, Sharing, head_for
from crosstask_multitask.heads import features_of


class TrunkAndHeads(MultiTaskModule):
    """`heads` are in the order of `names`: a task's id need not be a valid name of a module."""

    def __init__(self, trunk: nn.Module, names: Sequence[str], heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.trunk, self.names, self.heads = trunk, list(names), nn.ModuleList(heads)

    def head(self, task_id: str) -> nn.Module:
        if task_id not in self.names:
            raise DataError(f"no head for task {task_id!r}{nearest(task_id, self.names)}")
        return self.heads[self.names.index(task_id)]

    def forward(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        heads = {task_id: self.head(task_id) for task_id in inputs}
        batches = {id(batch): batch for batch in inputs.values()}  # tasks of one table have one batch: one pass
        features = {key: forward(self.trunk, batch) for key, batch in batches.items()}
        return {task_id: head(features[id(inputs[task_id])]) for task_id, head in heads.items()}

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        return self.trunk.parameters()

    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        return self.head(task_id).parameters()


@component
class ExampleSharing(Sharing):
    """Each task gets a ReLU layer of `hidden` units and a linear head on the features of the trunk."""

    hidden: int = option(16, ge=1, help="width of each task's own layer")

    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        if not tasks:
            raise DataError("no tasks to build heads for")
        return TrunkAndHeads(trunk, [task.task_id for task in tasks], [self._head(task, trunk) for task in tasks])

    def _head(self, task: Task, trunk: nn.Module) -> nn.Module:
        features = features_of(trunk, task)
        with seeded(self.context.seed_for("example_sharing", task.task_id)):
            return head_for(task, features, self.hidden)
