"""One trunk for all tasks, a head for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.descriptors import MultiInput
from crosstask.errors import DataError, nearest
from crosstask.learning import seeded
from crosstask.learning.modules import forward
from crosstask.options import component, option
from crosstask.tasks import Task
from crosstask_multitask.heads import features_of, head_for
from crosstask_multitask.sharing import Inputs, MultiTaskModule, Sharing


@attrs.frozen
class HeadMaker:
    """How heads are made: initialised from the run's seed and the task's id, whichever tasks there are."""

    hidden: int = 0
    seed: int = 0

    def make(self, task: Task, trunk: nn.Module) -> nn.Module:
        """A head for the task on this trunk's features."""
        features = features_of(trunk, task)
        with seeded(LocalContext(self.seed).seed_for("hard_parameter_sharing", task.task_id)):
            return head_for(task, features, self.hidden)


class SharedTrunk(MultiTaskModule):
    """A trunk and a head per task. `features` holds what the trunk gave in the last forward pass, with graph.

    Tasks with the same input tensor (several labels for one batch) share one pass through the trunk; other
    inputs of one shape go through it concatenated, so BatchNorm sees the batches of all tasks as one.
    """

    def __init__(self, trunk: nn.Module, heads: Mapping[str, nn.Module], maker: HeadMaker | None = None) -> None:
        super().__init__()
        self.trunk, self.maker = trunk, maker or HeadMaker()
        self.heads = nn.ModuleDict({_key(task_id): head for task_id, head in heads.items()})
        self.features: list[Tensor] = []

    def forward(self, inputs: Inputs, rows: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        for task_id in inputs:
            if _key(task_id) not in self.heads:
                raise DataError(f"no head for task {task_id!r}{nearest(task_id, map(_task_id, self.heads))}")
        features = self._trunk(list({id(batch): batch for batch in inputs.values()}.values()))
        found = {}
        for task_id, batch in inputs.items():
            own, some = features[id(batch)], (rows or {}).get(task_id)
            found[task_id] = self.heads[_key(task_id)](own if some is None else own[some])
        return found

    def on_rows(self, inputs: Inputs, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = self(inputs, rows)
        return outputs

    def _trunk(self, batches: Sequence[Tensor | MultiInput]) -> dict[int, Tensor]:
        groups: dict[object, list[Tensor | MultiInput]] = {}
        for batch in batches:
            groups.setdefault(_kind(batch), []).append(batch)
        found, self.features = {}, []
        for group in groups.values():
            features = forward(self.trunk, group[0] if len(group) == 1 else _joined(group))
            self.features.append(features)
            parts = [features] if len(group) == 1 else features.split([len(batch) for batch in group])
            found.update({id(batch): part for batch, part in zip(group, parts, strict=True)})
        return found

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        return self.trunk.parameters()

    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        return self.heads[_key(task_id)].parameters()

    def add_task(self, task: Task) -> None:
        if _key(task.task_id) in self.heads:
            raise DataError(f"the module has a task {task.task_id!r} already")
        head = self.maker.make(task, self.trunk)
        self.heads[_key(task.task_id)] = head.train(self.training)


@component
class HardParameterSharing(Sharing):
    """Every task learns the same trunk and a head of its own: Caruana, Multitask learning (1997), section 2.

    `build` takes a trunk that maps inputs to features; each head is linear, from F features to output_dim logits, with
    an optional hidden layer (a 1x1 convolution from maps for a segmentation; see `crosstask_multitask.heads.head_for`),
    and initialised from the seed and the task id. DataError for a task without output_dim, or if the trunk gives no
    features that fit it.
    """

    hidden: int = option(0, ge=0, help="width of a ReLU layer in each head; 0 for none")

    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        if not tasks:
            raise DataError("hard parameter sharing: no tasks to build heads for")
        maker = HeadMaker(self.hidden, self.context.seed)
        return SharedTrunk(trunk, {task.task_id: maker.make(task, trunk) for task in tasks}, maker)


def _kind(batch: Tensor | MultiInput) -> object:
    """Batches of one kind can go through a trunk as one."""
    if isinstance(batch, MultiInput):
        return batch.named, tuple((name, part.shape[1:], part.dtype) for name, part in batch.parts.items())
    return batch.shape[1:], batch.dtype


def _joined(group: Sequence[Tensor | MultiInput]) -> Tensor | MultiInput:
    first = group[0]
    if isinstance(first, MultiInput):
        parts = {name: torch.cat([batch.parts[name] for batch in group]) for name in first.parts}  # type: ignore[union-attr]
        return MultiInput(parts, named=first.named)
    return torch.cat(group)  # type: ignore[arg-type]


def _key(task_id: str) -> str:
    """A module name for any task id: torch allows no dots, and some names are taken."""
    return "task " + task_id.replace("%", "%25").replace(".", "%2E")


def _task_id(key: str) -> str:
    return key.removeprefix("task ").replace("%2E", ".").replace("%25", "%")
