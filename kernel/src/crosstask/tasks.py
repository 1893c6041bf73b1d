"""Tasks: what one is learned from (`Task`), a set of them (`Portfolio`)."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import attrs
import networkx as nx

from crosstask.descriptors import TaskDescriptor, TensorData
from crosstask.errors import DataError, nearest
from crosstask.identity import UnidentifiedError, identity_of

if TYPE_CHECKING:
    from torch import nn

SPLITS = ("train", "validation", "test")
"""Parts of a task's data."""


@attrs.define(eq=False, slots=False, kw_only=True)
class Task:
    """A descriptor with what can be learned from.

    Each split is a pair `(inputs, targets)` of tensors or arrays, a `torch.utils.data.Dataset`, or a function that
    returns an iterable of batches; it is read once, when first asked for, and checked. A task without data is valid:
    what needs data says so. `loss` and `metric` are names (see `crosstask.learning.objectives`) or functions
    `(outputs, targets) -> scalar`; by default they follow from the task type.
    """

    descriptor: TaskDescriptor
    train: Any = None
    validation: Any = None
    test: Any = None
    loss: str | Callable[..., Any] | None = None
    metric: str | Callable[..., Any] | None = None
    model: nn.Module | None = None
    _splits: dict[str, TensorData] = attrs.field(factory=dict, init=False, repr=False)
    _fingerprint: str | None = attrs.field(default=None, init=False, repr=False)

    @property
    def task_id(self) -> str:
        """The descriptor's."""
        return self.descriptor.task_id

    def has_data(self, split: str = "train") -> bool:
        """Whether a split was given; it is not read for this."""
        return getattr(self, split) is not None

    def data(self, split: str = "train") -> TensorData:
        """One split, read and checked. DataError if it was not given or is not usable."""
        if split not in SPLITS:
            raise DataError(f"unknown split {split!r}{nearest(split, SPLITS)}")
        if split not in self._splits:
            raw = getattr(self, split)
            if raw is None:
                have = [s for s in SPLITS if getattr(self, s) is not None]
                raise DataError(
                    f"task {self.task_id!r} has no {split} data (it has {', '.join(have) or 'a descriptor only'})"
                )
            from crosstask.reading import read_split  # deferred: a descriptor alone needs no torch

            self._splits[split] = read_split(raw, self.descriptor, split)
        return self._splits[split]

    def record(self, metric: str, value: float) -> None:
        """Append one measurement to the descriptor's history."""
        self.descriptor = self.descriptor.with_performance(metric, value)

    def fingerprint(self) -> str:
        """Identity of the task for the store: what it is and its data, not what was measured on it since.

        A loss or metric that is a function is known by its code and what it closes over. Where nobody can say what one
        is (an object of foreign code), the task is like no other: nothing that is stored is taken for its own.
        """
        if self._fingerprint is None:
            digest = hashlib.sha256()
            fixed = attrs.evolve(self.descriptor, performance_history=(), transfer_efficiency={}, embedding=None)
            digest.update(json.dumps([fixed.to_json(), _said(self.loss), _said(self.metric)], sort_keys=True).encode())
            for split in SPLITS:
                if self.has_data(split):
                    data = self.data(split)
                    for tensor in (data.inputs, data.targets):
                        digest.update(f"{split}{tensor.dtype}{tuple(tensor.shape)}".encode())
                        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
            self._fingerprint = digest.hexdigest()[:24]
        return self._fingerprint


def _said(chosen: str | Callable[..., Any] | None) -> Any:
    """A loss or metric for the fingerprint: its name, or what the function is."""
    try:
        return chosen if chosen is None or isinstance(chosen, str) else identity_of(chosen)
    except UnidentifiedError:
        return uuid.uuid4().hex


class Portfolio:
    """Tasks by id, in the order they were added. `unseen` tasks can be looked up; they are not paired or learned.

    Adding one costs O(1); prerequisites may be added later and are checked by `check`.
    """

    def __init__(self, tasks: Iterable[Task] = (), *, unseen: Iterable[Task] = (), name: str = "portfolio") -> None:
        self.name = name
        self._tasks: dict[str, Task] = {}
        self._unseen: dict[str, Task] = {}
        self.focus: str | None = None
        self._chosen: tuple[tuple[str, str], ...] | None = None
        for task in tasks:
            self.add(task)
        for task in unseen:
            self.add(task, unseen=True)

    def add(self, task: Task, *, unseen: bool = False) -> None:
        """Add a task. DataError if the id is taken."""
        if task.task_id in self._tasks or task.task_id in self._unseen:
            raise DataError(f"portfolio {self.name!r} already has a task {task.task_id!r}")
        (self._unseen if unseen else self._tasks)[task.task_id] = task

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks.values())

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._tasks

    def __getitem__(self, task_id: str) -> Task:
        task = self._tasks.get(task_id) or self._unseen.get(task_id)
        if task is None:
            raise DataError(
                f"no task {task_id!r} in portfolio {self.name!r}{nearest(task_id, [*self._tasks, *self._unseen])}"
            )
        return task

    @property
    def ids(self) -> list[str]:
        """Of the tasks that are learned from; those held back are in `unseen`."""
        return list(self._tasks)

    @property
    def unseen(self) -> list[Task]:
        """Tasks held back: for synthesis and evaluation only."""
        return list(self._unseen.values())

    def focused(self, task_id: str) -> Portfolio:
        """A view of the same tasks whose `pairs` are only those that involve `task_id`: O(n) of them."""
        self[task_id]
        view = Portfolio(name=self.name)
        view._tasks, view._unseen, view.focus, view._chosen = self._tasks, self._unseen, task_id, self._chosen
        return view

    def restricted(self, pairs: Iterable[tuple[str, str]]) -> Portfolio:
        """A view of the same tasks whose `pairs` are only these (source id, target id). DataError for an unknown id,
        a task held back as unseen, or a task paired with itself.
        """
        view = Portfolio(name=self.name)
        view._tasks, view._unseen, view.focus = self._tasks, self._unseen, self.focus
        view._chosen = tuple(dict.fromkeys(pairs))
        for source, target in view._chosen:
            for end in (source, target):
                if self[end].task_id not in self._tasks and (end == source or end != self.focus):
                    raise DataError(f"task {end!r} is held back as unseen: it is not paired")
            if source == target:
                raise DataError(f"a pair of task {source!r} with itself")
        return view

    def pairs(self) -> Iterator[tuple[Task, Task]]:
        """Every ordered pair (source, target) of different tasks; with a focus, only the pairs that involve it; of a
        restricted view, only the chosen ones.
        """
        if self._chosen is not None:
            for ends in self._chosen:
                if self.focus is None or self.focus in ends:
                    yield self[ends[0]], self[ends[1]]
            return
        if self.focus is not None:
            focus = self[self.focus]
            for other in self:
                if other is not focus:
                    yield other, focus
                    if self.focus in self._tasks:
                        yield focus, other
            return
        for source in self:
            for target in self:
                if source is not target:
                    yield source, target

    def check(self) -> None:
        """Refuse an empty portfolio, unknown prerequisites and cycles (the cycle is named)."""
        if not self._tasks:
            raise DataError(f"portfolio {self.name!r} is empty: add at least one task")
        for task in self:
            for needed in task.descriptor.prerequisites:
                if needed not in self._tasks:
                    raise DataError(
                        f"task {task.task_id!r} needs unknown prerequisite {needed!r}{nearest(needed, self._tasks)}"
                    )
        graph = self.prerequisite_graph()
        try:
            cycle = nx.find_cycle(graph)
        except nx.NetworkXNoCycle:
            return
        path = " -> ".join([edge[0] for edge in cycle] + [cycle[0][0]])
        raise DataError(f"prerequisites form a cycle: {path}")

    def prerequisite_graph(self) -> nx.DiGraph:
        """Edges from each prerequisite to the task that needs it."""
        graph = nx.DiGraph()
        graph.add_nodes_from(self._tasks)
        graph.add_edges_from((p, task.task_id) for task in self for p in task.descriptor.prerequisites)
        return graph
