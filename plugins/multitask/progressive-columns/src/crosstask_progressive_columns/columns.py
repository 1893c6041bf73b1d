"""Progressive networks: a column for each task, with lateral connections from the columns before it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError, nearest
from crosstask.learning.modules import forward, seeded
from crosstask.options import component, option
from crosstask.tasks import Task
from crosstask_multitask.freezing import Freezable
from crosstask_multitask.headed import HeadedModule, HeadMaker, Rows, key
from crosstask_multitask.heads import features_of
from crosstask_multitask.sharing import Inputs, MultiTaskModule, Sharing, SharingMatrix

_POINTWISE: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {4: nn.Conv2d, 5: nn.Conv3d}


class Column(nn.Module):
    """What one task has of its own before its head: `layers` on the base's features, and a lateral connection from each
    earlier column, whose features it turns into some of this one's size.
    """

    def __init__(self, features: Tensor, dims: Sequence[int], before: Mapping[str, int], dropout: float) -> None:
        super().__init__()
        width = features.shape[1 if features.ndim > 3 else -1]
        layers: list[nn.Module] = []
        for one, other in itertools.pairwise((width, *dims)):
            layers += [_layer(features, one, other), nn.ReLU(), nn.Dropout(dropout)]
        self.width = dims[-1] if dims else width
        self.layers = nn.Sequential(*layers)
        self.laterals = nn.ModuleDict()
        for earlier, size in before.items():
            between = max(1, size // 2)
            self.laterals[earlier] = nn.Sequential(
                _layer(features, size, between), nn.ReLU(), _layer(features, between, self.width)
            )

    def parts(self, features: Tensor, earlier: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What it makes itself, under "", and what comes from each earlier column; their sum is what the head gets."""
        return {"": self.layers(features)} | {name: each(earlier[name]) for name, each in self.laterals.items()}


class Columns(Freezable, HeadedModule):
    """A base and a column for each task, in the order of the tasks.

    No gradient of a task reaches an earlier column, and the base's comes from the first task alone (`base` "first") or
    from all ("all"). A column is computed once for all tasks that look at it, and always, whichever are asked for.
    """

    def __init__(
        self,
        trunk: nn.Module,
        maker: HeadMaker,
        dims: Sequence[int] = (64,),
        dims_of: Mapping[str, Sequence[int]] | None = None,
        *,
        base: str = "all",
        dropout: float = 0.0,
    ) -> None:
        super().__init__({})
        self.trunk, self.maker, self.base, self.dropout = trunk, maker, base, dropout
        self.dims, self.dims_of = tuple(dims), {name: tuple(each) for name, each in (dims_of or {}).items()}
        self.columns = nn.ModuleDict()

    def make_parts(self, task: Task) -> nn.Module:
        features = features_of(self.trunk, task)
        if features.ndim < 4 and task.descriptor.task_type == "segmentation":
            shape = tuple(features.shape)
            raise DataError(f"task {task.task_id!r}: the trunk must give maps (2, F, H, W) to segment, got {shape}")
        before = {name: int(column.width) for name, column in self.columns.items()}  # type: ignore[arg-type]
        dims = self.dims_of.get(task.task_id, self.dims)
        with seeded(self.maker.seed_for("column", task)):
            column = Column(features, dims, before, self.dropout).to(features)
        example = features.new_zeros((2, column.width, *features.shape[2:]))
        if features.ndim == 3:
            example = features.new_zeros((*features.shape[:2], column.width))
        head = self.maker.fitting(task, example)
        self.columns[key(task.task_id)] = column.train(self.training)
        return head

    def represent(self, batch: Tensor | MultiInput, rows: Rows) -> dict[str, Tensor]:
        base = forward(self.trunk, batch)
        made = {task: whole for task, _, whole in self._computed(base, set(rows))}
        return {task: made[task][places] for task, places in rows.items()}

    def _computed(self, base: Tensor, wanted: set[str]) -> Iterator[tuple[str, dict[str, Tensor], Tensor]]:
        """Of each column up to the last of these tasks its parts and their sum; with a graph for these tasks alone."""
        earlier: dict[str, Tensor] = {}
        last = max((number for number, task in enumerate(self.tasks) if task in wanted), default=-1)
        for number, task in enumerate(self.tasks[: last + 1]):
            column: Column = self.columns[key(task)]  # type: ignore[assignment]
            learns = task in wanted and torch.is_grad_enabled()
            with torch.set_grad_enabled(learns):
                own = base if self.base == "all" or not number else base.detach()
                parts = column.parts(own, earlier)
                whole = functools.reduce(torch.add, parts.values())
            earlier[key(task)] = whole.detach()
            yield task, parts, whole

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        return self.trunk.parameters()

    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        yield from super().task_parameters(task_id)
        yield from self.columns[key(task_id)].parameters()

    def learn(self, task_id: str) -> None:
        """From now on this task is learned: its column and head, and the base if it is the first. All else is frozen,
        so that what the others answer does not move by a bit. `thaw` ends it.
        """
        if task_id not in self.tasks:
            raise DataError(f"no column for task {task_id!r}{nearest(task_id, self.tasks)}")
        self.thaw()
        self.freeze(
            *(part[key(other)] for other in self.tasks if other != task_id for part in (self.columns, self.heads))
        )
        if self.tasks[0] != task_id:
            self.freeze(self.trunk)

    def add_task(self, task: Task, hidden_dims: Sequence[int] | None = None) -> None:
        """Give it another column, the last one, and `learn` that. `hidden_dims`: its layers, if not the usual ones."""
        if hidden_dims is not None and task.task_id not in self.tasks:
            self.dims_of[task.task_id] = tuple(hidden_dims)
        super().add_task(task)
        self.learn(task.task_id)

    @torch.no_grad()
    def learned(self, inputs: Inputs) -> list[SharingMatrix]:
        """Of what each task's head gets, the share that comes from each column: by the mean length of its part."""
        values = []
        for task, batch in inputs.items():
            *_, (_, parts, _) = self._computed(forward(self.trunk, batch), {task})
            sizes = {name or key(task): float(part.flatten(1).norm(dim=1).mean()) for name, part in parts.items()}
            whole = sum(sizes.values()) or 1.0
            values.append(tuple(sizes.get(key(other), 0.0) / whole for other in self.tasks))
        return [
            SharingMatrix(
                name="What each task takes of the columns",
                rows=tuple(inputs),
                columns=tuple(self.tasks),
                values=tuple(values),
                told="share of what comes from the column's features in what the head of the row's task is given",
            )
        ]


@component
class Progressive(Sharing):
    """A column for each task, in the tasks' order, with lateral connections from the columns before it, which it does
    not change: Rusu et al., Progressive neural networks (2016), section 2.

    The trunk is the base under all columns. Trained together, every column learns from its own task, and the base from
    all of them, or from the first alone with `base` "first"; then nothing of a later task moves an earlier one's
    answer. One after another, as in the paper: the module's `learn(task)` before each, or `add_task`, freezes all that
    is there already.
    """

    hidden: int = option(0, ge=0, help="width of a ReLU layer in each head; 0 for none")
    hidden_dims: tuple[int, ...] = option((64,), ge=1, help="widths of a column's ReLU layers")
    hidden_dims_of: dict[str, tuple[int, ...]] = option(factory=dict, help="the same for tasks by name")
    base: Literal["all", "first"] = option("all", help="whom the base learns from when tasks are trained together")
    dropout: float = option(0.0, ge=0, lt=1, help="after each layer of a column")

    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        if not tasks:
            raise DataError("progressive: no tasks to build columns for")
        ids = [task.task_id for task in tasks]
        for name in self.hidden_dims_of:
            if name not in ids:
                raise DataError(f"progressive: hidden_dims_of: no task {name!r}{nearest(name, ids)}")
        maker = HeadMaker(self.hidden, self.context.seed, "progressive")
        module = Columns(trunk, maker, self.hidden_dims, self.hidden_dims_of, base=self.base, dropout=self.dropout)
        for task in tasks:
            HeadedModule.add_task(module, task)
        return module


def _layer(features: Tensor, before: int, after: int) -> nn.Module:
    """Linear, or a 1x1 convolution of maps."""
    return _POINTWISE[features.ndim](before, after, 1) if features.ndim in _POINTWISE else nn.Linear(before, after)
