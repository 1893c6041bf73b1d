"""A network that learns tasks one after another: which of its outputs belong to which task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import DataError, OptionError, nearest
from crosstask.learning.modules import evaluating, forward, logits_of, seeded
from crosstask.learning.training import device_of
from crosstask.tasks import Task
from crosstask_continual.batch import Batch
from crosstask_continual.heads import outputs_of, resize_head

SCENARIOS = ("task", "domain", "class")
"""What is known and asked for in the test, see `ContinualModel`."""


class ContinualModel(nn.Module):
    """A network and the layout of its outputs.

    - scenario `task`: each task has outputs of its own and is known when it is asked for; a sample's loss and answer
      look at the outputs of its task only;
    - `domain`: all tasks share all outputs;
    - `class`: classes are numbered as they come (tasks that name the same class share it), and every class seen so far
      may be the answer.

    Outputs that may not be chosen are masked before the softmax. `grow`: a head with too few outputs gets more, else
    that is an error. A network whose `takes_tasks` is true is called with (inputs, task_ids), and says itself how many
    `outputs` it has and how they grow: `widen(outputs, seed)`.

    `learning_rate` is the optimiser's in the task being learned, `generator` (CPU) what strategies draw from: it is
    seeded anew for each task.
    """

    allowed: Tensor
    """[tasks, outputs]: which outputs may be the answer to a sample of a task."""

    def __init__(self, network: nn.Module, scenario: str, *, grow: bool = False) -> None:
        super().__init__()
        if scenario not in SCENARIOS:
            raise OptionError(f"unknown scenario {scenario!r}{nearest(scenario, SCENARIOS)}")
        self.network, self.scenario, self.grow = network, scenario, grow
        self.tasks: list[str] = []
        self.columns: list[list[int]] = []
        self.classes: list[str | None] = []
        self.learning_rate = 0.0
        self.generator = torch.Generator()
        self.register_buffer("allowed", torch.zeros(0, 0, dtype=torch.bool), persistent=False)

    @property
    def outputs(self) -> int:
        """How many outputs the head has."""
        network: Any = self.network
        return int(network.outputs) if self.takes_tasks else outputs_of(network)

    @property
    def seen(self) -> int:
        """How many outputs belong to a task."""
        return len(self.classes)

    @property
    def current(self) -> int:
        """Number of the task that came last."""
        return len(self.tasks) - 1

    def number(self, task: Task) -> int:
        """Where a task came in the order. DataError if it did not."""
        if task.task_id not in self.tasks:
            raise DataError(f"task {task.task_id!r} has not come yet{nearest(task.task_id, self.tasks)}")
        return self.tasks.index(task.task_id)

    def add(self, task: Task, seed: int) -> None:
        """Give a task its outputs. DataError if its classes do not fit the head; nothing is changed then."""
        size = 2 if task.descriptor.output_dim == 1 else task.descriptor.output_dim  # one logit tells two classes apart
        if task.descriptor.task_type != "classification" or size is None:
            raise DataError(
                f"task {task.task_id!r}: continual learning needs classification tasks with output_dim; "
                f"this one is a {task.descriptor.task_type} task with {size} outputs"
            )
        has = self.outputs
        if self.scenario == "domain":
            if size != has:
                raise DataError(
                    f"task {task.task_id!r} has {size} classes, the head has {has} outputs: in the domain scenario all "
                    "tasks share the outputs; use scenario 'class' or 'task' for tasks with classes of their own"
                )
            self.classes = [None] * has
            columns = list(range(has))
        else:
            columns, classes = self._placed(task, size)
            if (needed := len(classes)) > has:
                if not self.grow:
                    raise DataError(
                        f"task {task.task_id!r} needs outputs up to {needed - 1}, the head has {has}: give the model "
                        f"{needed} or more outputs, or let the head grow (grow=True)"
                    )
                self.widen(needed, seed)
            self.classes = classes
        self.tasks.append(task.task_id)
        self.columns.append(columns)
        self._update()

    def _placed(self, task: Task, size: int) -> tuple[list[int], list[str | None]]:
        """(outputs of a task's classes, the classes of all outputs then)."""
        names: Sequence[str | None] = task.descriptor.classes or [None] * size
        columns, classes = [], self.classes.copy()
        for name in names:
            if self.scenario == "class" and name is not None and name in classes:
                columns.append(classes.index(name))
            else:
                columns.append(len(classes))
                classes.append(name)
        return columns, classes

    def widen(self, outputs: int, seed: int) -> None:
        """More outputs for the head: the old rows stay as they are, new ones are drawn from `seed`."""
        network: Any = self.network
        if self.takes_tasks:
            network.widen(outputs, seed)
        else:
            resize_head(network, outputs, seed)

    def _update(self) -> None:
        allowed = torch.zeros(len(self.tasks), self.outputs, dtype=torch.bool)
        for row, columns in zip(allowed, self.columns, strict=True):
            if self.scenario == "task":
                row[columns] = True
            else:
                row[: self.seen] = True
        self.allowed = allowed.to(device_of(self.network))

    def span(self, number: int) -> slice:
        """The outputs that count for a task: its own, all, or all seen so far. They lie side by side."""
        if self.scenario == "task":
            return slice(self.columns[number][0], self.columns[number][-1] + 1)
        return slice(0, self.seen)

    def check_answers(self, task: Task) -> None:
        """DataError unless the network takes a task's inputs and gives as many outputs as its head seems to have."""
        data, device = task.data("train"), device_of(self.network)
        name, shape = task.task_id, tuple(data.inputs.shape[1:])
        if not isinstance(data.inputs, Tensor):
            raise DataError(f"task {name!r} has several inputs: continual learning takes tasks with one tensor of them")
        last = torch.full((1,), max(self.current, 0), device=device)
        try:
            with evaluating(self), seeded(0), torch.no_grad():
                found = self(data.inputs[:1].to(device), last)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            what = type(self.network).__name__
            raise DataError(f"task {name!r}: {what} cannot answer inputs of shape {shape}: {error}") from error
        if tuple(found.shape) != (1, self.outputs):
            raise DataError(
                f"task {name!r}: {type(self.network).__name__} answers one input of shape {shape} with outputs of "
                f"shape {tuple(found.shape)}; expected (1, {self.outputs}), a number for each output of its last layer"
            )

    # --- Use

    def forward(self, inputs: Tensor, task_ids: Tensor | None = None) -> Tensor:
        """Raw outputs [N, C], all of them."""
        return logits_of(self.network(inputs, task_ids)) if self.takes_tasks else forward(self.network, inputs)

    @property
    def takes_tasks(self) -> bool:
        """Whether the network must be told the task of each sample."""
        return bool(getattr(self.network, "takes_tasks", False))

    def masked(self, outputs: Tensor, task_ids: Tensor) -> Tensor:
        """Outputs that may not be the answer to a sample of its task are -inf."""
        if self.scenario == "domain":
            return outputs
        return outputs.masked_fill(~self.allowed[task_ids], float("-inf"))

    def loss(self, outputs: Tensor, batch: Batch, reduction: str = "mean") -> Tensor:
        """Cross-entropy over the outputs that may be chosen; `reduction` as in torch."""
        return functional.cross_entropy(self.masked(outputs, batch.task_ids), batch.targets, reduction=reduction)

    def data(self, task: Task, split: str = "train") -> Batch:
        """All samples of a split on the model's device, with the numbers of their outputs as targets."""
        number, data, device = self.number(task), task.data(split), device_of(self.network)
        columns = torch.tensor(self.columns[number], device=device)
        targets = columns[data.targets.to(device)]
        return Batch(data.inputs.to(device), targets, torch.full_like(targets, number))

    @torch.no_grad()
    def accuracy(self, task: Task, split: str = "test", batch_size: int = 4096) -> float:
        """Share of right answers in evaluation mode; modes are restored."""
        batch, right = self.data(task, split), 0
        with evaluating(self):
            for first in range(0, len(batch), batch_size):
                part = batch.part(slice(first, first + batch_size))
                found = self.masked(self(part.inputs, part.task_ids), part.task_ids).argmax(1)
                right += int((found == part.targets).sum())
        return right / len(batch)

    def layout(self) -> dict[str, Any]:
        """Which outputs belong to which task, as plain data."""
        return {"tasks": self.tasks.copy(), "columns": [list(c) for c in self.columns], "classes": self.classes.copy()}

    def lay_out(self, layout: dict[str, Any], outputs: int, seed: int) -> None:
        """Take over a stored layout, with a head of so many outputs."""
        self._take(layout)
        for columns in (*self.columns, [outputs - 1]):  # as they came: a frozen head has a layer for each growth
            if self.grow and columns and max(columns) >= self.outputs:
                self.widen(max(columns) + 1, seed)
        self._update()

    def put_layout(self, layout: dict[str, Any]) -> None:
        """Take over a layout that this network's head has outputs for."""
        self._take(layout)
        self._update()

    def _take(self, layout: dict[str, Any]) -> None:
        self.tasks = [str(t) for t in layout["tasks"]]
        self.columns = [list(c) for c in layout["columns"]]
        self.classes = [None if c is None else str(c) for c in layout["classes"]]
