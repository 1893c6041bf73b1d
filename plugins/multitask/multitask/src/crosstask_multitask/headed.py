"""What most sharing architectures have in common: a head for each task, on features that the architecture gives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.descriptors import MultiInput
from crosstask.errors import DataError, nearest, of_kind
from crosstask.learning.modules import seeded
from crosstask.tasks import Task
from crosstask_multitask.heads import features_of, head_for
from crosstask_multitask.sharing import Inputs, MultiTaskModule

Rows = Mapping[str, Tensor | slice]
"""Of each task, its rows of a batch: places, or a slice of them."""


@attrs.frozen
class HeadMaker:
    """How heads are made: initialised from the run's seed and the task's id, whichever tasks there are. `name` is that
    of the architecture.
    """

    hidden: int = 0
    seed: int = 0
    name: str = "head"

    def make(self, task: Task, trunk: nn.Module) -> nn.Module:
        """A head for the task on this trunk's features."""
        return self.fitting(task, features_of(trunk, task))

    def fitting(self, task: Task, features: Tensor) -> nn.Module:
        """A head for the task on features as these."""
        with seeded(self.seed_for(task)):
            return head_for(task, features, self.hidden)

    def seed_for(self, *parts: Task | str) -> int:
        """A seed of the task, or of whatever these words name, in this architecture."""
        names = [part if isinstance(part, str) else part.task_id for part in parts]
        return LocalContext(self.seed).seed_for(self.name, *names)


class HeadedModule(MultiTaskModule):
    """A module with a head per task on features [N, F] (or maps) that `represent` gives for each of them.

    Tasks with the same input tensor (several labels for one batch) share one pass; other inputs of one shape go through
    it concatenated, so BatchNorm sees the batches of all tasks as one. Task ids may be any text: torch allows no dots
    in the name of a module, so parts of a task are kept under `key(task_id)`.
    """

    def __init__(self, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({key(task_id): head for task_id, head in heads.items()})

    @abstractmethod
    def represent(self, batch: Tensor | MultiInput, rows: Rows) -> dict[str, Tensor]:
        """For each task of `rows`, the features of its rows of the batch [N, …]."""

    @abstractmethod
    def make_parts(self, task: Task) -> nn.Module:
        """Make whatever another task needs beside its head, and keep it; its head. Nothing that the other tasks use may
        change. DataError, before anything has changed, if it cannot be made.
        """

    @property
    def tasks(self) -> list[str]:
        """The ids of the tasks, in the order in which they came."""
        return [task_id(name) for name in self.heads]

    def forward(self, inputs: Inputs, rows: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        of_kind(inputs, Mapping, "inputs by task id")  # type: ignore[type-abstract]
        for task in inputs:
            if key(task) not in self.heads:
                raise DataError(f"no head for task {task!r}{nearest(task, self.tasks)}")
        features: dict[str, Tensor] = {}
        for batch, places in _passes(inputs, rows or {}):
            features.update(self.represent(batch, places))
        return {task: self.heads[key(task)](features[task]) for task in inputs}

    def on_rows(self, inputs: Inputs, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = self(inputs, rows)
        return outputs

    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        return self.heads[key(task_id)].parameters()

    def add_task(self, task: Task) -> None:
        if key(task.task_id) in self.heads:
            raise DataError(f"the module has a task {task.task_id!r} already")
        self.heads[key(task.task_id)] = self.make_parts(task).train(self.training)


def key(task_id: str) -> str:
    """A module name for any task id: torch allows no dots, and some names are taken."""
    return "task " + task_id.replace("%", "%25").replace(".", "%2E")


def task_id(key: str) -> str:
    """The task id of a module name that `key` made."""
    return key.removeprefix("task ").replace("%2E", ".").replace("%25", "%")


def _passes(inputs: Inputs, rows: Mapping[str, Tensor]) -> Iterator[tuple[Tensor | MultiInput, Rows]]:
    """The batches that go through as one, with each task's rows of them."""
    groups: dict[object, dict[int, Tensor | MultiInput]] = {}
    for batch in inputs.values():
        groups.setdefault(_kind(batch), {})[id(batch)] = batch
    for group in groups.values():
        starts, count = {}, 0
        for name, batch in group.items():
            starts[name], count = count, count + len(batch)
        places: dict[str, Tensor | slice] = {}
        for task, batch in inputs.items():
            if id(batch) in group:
                start = starts[id(batch)]
                some = rows.get(task)
                places[task] = slice(start, start + len(batch)) if some is None else start + some
        whole = list(group.values())
        yield whole[0] if len(whole) == 1 else _joined(whole), places


def _kind(batch: Tensor | MultiInput) -> object:
    """Batches of one kind can go through as one."""
    if isinstance(batch, MultiInput):
        return batch.named, tuple((name, part.shape[1:], part.dtype) for name, part in batch.parts.items())
    return batch.shape[1:], batch.dtype


def _joined(group: Sequence[Tensor | MultiInput]) -> Tensor | MultiInput:
    first = group[0]
    if isinstance(first, MultiInput):
        parts = {name: torch.cat([batch.parts[name] for batch in group]) for name in first.parts}  # type: ignore[union-attr]
        return MultiInput(parts, named=first.named)
    return torch.cat(group)  # type: ignore[arg-type]
