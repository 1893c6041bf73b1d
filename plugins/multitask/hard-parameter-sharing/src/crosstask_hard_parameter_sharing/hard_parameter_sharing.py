"""One trunk for all tasks, one linear head for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from crosstask.errors import DataError, nearest
from crosstask.learning import seeded
from crosstask.options import component, option
from crosstask.tasks import Task
from crosstask_multitask.sharing import MultiTaskModule, Sharing


class SharedTrunk(MultiTaskModule):
    """A trunk and a head per task. `features` holds what the trunk gave in the last forward pass, with graph.

    Tasks with the same input tensor (several labels for one batch) share one pass through the trunk; other
    inputs of one shape go through it concatenated, so BatchNorm sees the batches of all tasks as one.
    """

    def __init__(self, trunk: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleDict({_key(task_id): head for task_id, head in heads.items()})
        self.features: list[Tensor] = []

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for task_id in inputs:
            if _key(task_id) not in self.heads:
                raise DataError(f"no head for task {task_id!r}{nearest(task_id, map(_task_id, self.heads))}")
        batches = list({id(batch): batch for batch in inputs.values()}.values())
        features = self._trunk(batches)
        return {task_id: self.heads[_key(task_id)](features[id(batch)]) for task_id, batch in inputs.items()}

    def _trunk(self, batches: Sequence[Tensor]) -> dict[int, Tensor]:
        groups: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = {}
        for batch in batches:
            groups.setdefault((batch.shape[1:], batch.dtype), []).append(batch)
        found, self.features = {}, []
        for group in groups.values():
            features = self.trunk(group[0] if len(group) == 1 else torch.cat(group))
            self.features.append(features)
            parts = [features] if len(group) == 1 else features.split([len(batch) for batch in group])
            found.update({id(batch): part for batch, part in zip(group, parts, strict=True)})
        return found

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        return self.trunk.parameters()

    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        return self.heads[_key(task_id)].parameters()


@component
class HardParameterSharing(Sharing):
    """Every task learns the same trunk and a head of its own: Caruana, Multitask learning (1997), section 2.

    `build` takes a trunk that maps inputs to features [N, F]; each head is linear, from F features
    to output_dim logits, with an optional hidden layer, and initialised from the seed and the task id.
    DataError for a task without output_dim, or if the trunk gives no features of that shape.
    """

    hidden: int = option(0, ge=0, help="width of a ReLU layer in each head; 0 for none")

    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        if not tasks:
            raise DataError("hard parameter sharing: no tasks to build heads for")
        widths: dict[tuple[int, ...], int] = {}
        heads = {}
        for task in tasks:
            if task.descriptor.output_dim is None:
                raise DataError(f"task {task.task_id!r}: a head needs output_dim in the descriptor")
            example = _example(task, trunk)
            shape = tuple(example.shape[1:])
            if shape not in widths:
                widths[shape] = _width(trunk, example, task.task_id)
            with seeded(self.context.seed_for("hard_parameter_sharing", task.task_id)):
                heads[task.task_id] = self._head(widths[shape], task.descriptor.output_dim).to(example.device)
        return SharedTrunk(trunk, heads)

    def _head(self, features: int, outputs: int) -> nn.Module:
        if not self.hidden:
            return nn.Linear(features, outputs)
        return nn.Sequential(nn.Linear(features, self.hidden), nn.ReLU(), nn.Linear(self.hidden, outputs))


def _example(task: Task, trunk: nn.Module) -> Tensor:
    """Two inputs of the task, on the trunk's device: real ones if there are any (they may be integers)."""
    device = next((p.device for p in trunk.parameters()), torch.device("cpu"))
    if task.has_data("train"):
        return task.data("train").inputs[:2].to(device)
    if not task.descriptor.input_shape:
        raise DataError(f"task {task.task_id!r}: a head needs data or input_shape in the descriptor")
    return torch.zeros(2, *task.descriptor.input_shape, device=device)


@torch.no_grad()
def _width(trunk: nn.Module, example: Tensor, task_id: str) -> int:
    modes = {module: module.training for module in trunk.modules()}
    trunk.eval()  # BatchNorm's statistics must not see the example
    try:
        features = trunk(example)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(example):
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        expected = f"({len(example)}, F)"
        raise DataError(f"task {task_id!r}: the trunk must give features of shape {expected}, got {shape}")
    return features.shape[1]


def _key(task_id: str) -> str:
    """A module name for any task id: torch allows no dots, and some names are taken."""
    return "task " + task_id.replace("%", "%25").replace(".", "%2E")


def _task_id(key: str) -> str:
    return key.removeprefix("task ").replace("%2E", ".").replace("%25", "%")
