"""Tasks: what one is learned from (`Task`), a set of them (`Portfolio`)."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import networkx as nx

from crosstask.descriptors import TaskDescriptor, TensorData
from crosstask.errors import DataError, nearest, of_kind
from crosstask.identity import UnidentifiedError, identity_of
from crosstask.options import structure
from crosstask.showing import frame, table

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]
    from torch import nn

SPLITS = ("train", "validation", "test")
"""Parts of a task's data."""


def _described(value: Any) -> TaskDescriptor:
    return of_kind(
        TaskDescriptor(task_id=value) if isinstance(value, str) else value, TaskDescriptor, "the descriptor of a task"
    )


def _split(name: Any) -> str:
    if not isinstance(name, str) or name not in SPLITS:
        raise DataError(f"unknown split {name!r}{nearest(name, SPLITS)}")
    return name


@attrs.define(eq=False, slots=False, kw_only=True)
class Task:
    """A descriptor (or just its id) with what can be learned from.

    Each split is whatever a torch user has: `crosstask.reading.read_described` says what. It is read once, when first
    asked for, and checked; what the descriptor leaves open (shapes, classes, dimensions) is found in the training data.
    A task without data is valid: what needs data says so. `loss` and `metric` are names (see
    `crosstask.learning.objectives`), functions `(outputs, targets) -> scalar`, or for a metric a `Metric` or one of
    torchmetrics; by default they follow from the task type. `inputs` and `target` name fields of samples that are
    mappings.

    `model` is the task's own network, trained or not, used as it is: its `forward` takes the inputs (several by place
    or by keyword) and returns logits, or a tuple or mapping with them. `build` makes a fresh one of its architecture,
    for controls from scratch, and is how the task's network is made where there is no `model`. `head` names its last
    layer (or parameter), where it is not what a forward pass uses last.
    """

    descriptor: TaskDescriptor = attrs.field(converter=_described)
    train: Any = None
    validation: Any = None
    test: Any = None
    loss: str | Callable[..., Any] | None = None
    metric: Any = None
    model: nn.Module | None = None
    build: Callable[[], nn.Module] | None = None
    head: str | None = None
    inputs: str | Sequence[str] | None = None
    target: str | None = None
    _splits: dict[str, TensorData] = attrs.field(factory=dict, init=False, repr=False)
    _fingerprint: str | None = attrs.field(default=None, init=False, repr=False)
    _content: str | None = attrs.field(default=None, init=False, repr=False)
    _classes_found: bool = attrs.field(default=False, init=False, repr=False)
    _columns: tuple[str, ...] = attrs.field(default=(), init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        kinds = {"head": str | None, "target": str | None, "inputs": str | tuple[str, ...] | None}
        for name, kind in kinds.items():
            setattr(self, name, structure(getattr(self, name), kind, f"task {self.task_id!r}: {name}"))
        if self.build is not None and not callable(self.build):
            raise DataError(f"task {self.task_id!r}: build must be a function, got a {type(self.build).__name__}")

    @property
    def task_id(self) -> str:
        """The descriptor's."""
        return self.descriptor.task_id

    def has_data(self, split: str = "train") -> bool:
        """Whether a split was given; it is not read for this."""
        return getattr(self, _split(split)) is not None

    def data(self, split: str = "train") -> TensorData:
        """One split, read and checked. DataError if it was not given or is not usable."""
        if _split(split) not in self._splits:
            raw = getattr(self, split)
            if raw is None:
                have = [s for s in SPLITS if getattr(self, s) is not None]
                raise DataError(
                    f"task {self.task_id!r} has no {split} data (it has {', '.join(have) or 'a descriptor only'})"
                )
            if split != "train" and self.train is not None:
                self.data("train")  # shapes and classes are those of the training data
            from crosstask.reading import Fields, read_described  # deferred: a descriptor alone needs no torch

            names: Any = self.inputs
            read_before = isinstance(raw, TensorData) and raw.table is None  # its labels are numbers of classes already
            columns = () if split == "train" else self._columns
            fields = Fields(names, self.target, self._classes_found and not read_before, columns)
            had = self.descriptor.classes
            self._splits[split], self.descriptor = read_described(raw, self.descriptor, split, fields)
            self._classes_found = self._classes_found or bool(not had and self.descriptor.classes)
            if split == "train":
                self._columns = self._splits[split].columns
        return self._splits[split]

    def over(self, **splits: Any) -> Task:
        """The same task with these splits for its own; those that are not named it has not."""
        plain = {f.name: getattr(self, f.name) for f in attrs.fields(Task) if f.init and f.name not in SPLITS}
        made = Task(**plain, **splits)
        made._columns = self._columns  # its model, and what is judged, know the columns of a table in this order
        return made

    def record(self, metric: str, value: float) -> None:
        """Append one measurement to the descriptor's history."""
        self.descriptor = self.descriptor.with_performance(metric, value)

    def fingerprint(self) -> str:
        """Identity of the task for the store: what it is and its data, not what was measured on it since.

        A loss or metric that is a function is known by its code and what it closes over. Where nobody can say what one
        is (an object of foreign code), the task is like no other: nothing that is stored is taken for its own.
        """
        if self._fingerprint is None:
            digest, content = hashlib.sha256(), hashlib.sha256()
            read = {split: self.data(split) for split in SPLITS if self.has_data(split)}
            fixed = attrs.evolve(self.descriptor, performance_history=(), transfer_efficiency={}, embedding=None)
            said = [fixed.to_json(), _said(self.loss), _said(self.metric)]
            if self.build is not None:
                said.append(_said(self.build))
            if self.head is not None:
                said.append(["head", self.head])
            digest.update(json.dumps(said, sort_keys=True).encode())
            for split, data in read.items():
                parts = getattr(data.inputs, "parts", None) or {"": data.inputs}
                for name, tensor in (*parts.items(), ("", data.targets)):
                    shape = f"{split}{name}{tensor.dtype}{tuple(tensor.shape)}".encode()
                    digest.update(shape)
                    content.update(shape)
                    for part in tensor.detach().split(_CHUNK):  # large data are never copied whole
                        values = memoryview(part.cpu().contiguous().numpy()).cast("B")
                        digest.update(values)
                        content.update(values)
            self._fingerprint = digest.hexdigest()[:24]
            if read:
                kind = [fixed.task_type, fixed.output_dim, fixed.classes, *said[1:3]]
                content.update(json.dumps(kind).encode())
                self._content = content.hexdigest()[:24]
        return self._fingerprint

    def content(self) -> str | None:
        """What is learned, whatever the task is called and whatever else its descriptor says: of the data, the type,
        the classes, loss and metric. None without data. Graphs of two runs know a task again by it.
        """
        self.fingerprint()
        return self._content


_CHUNK = 1024  # samples


def _said(chosen: Any) -> Any:
    """A loss, metric or builder for the fingerprint: its name, or what the function is."""
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
        self._chosen: dict[tuple[str, str], None] | None = None
        for held_back, given in ((False, tasks), (True, unseen)):
            for task in structure(given, tuple[Any, ...], f"the tasks of portfolio {name!r}"):
                self.add(task, unseen=held_back)

    @classmethod
    def from_table(
        cls,
        inputs: Any,
        targets: Mapping[str, Any],
        *,
        descriptors: Mapping[str, TaskDescriptor] | None = None,
        mask: Any = None,
        splits: Mapping[str, Any] | None = None,
        name: str = "table",
        **options: Any,
    ) -> Portfolio:
        """Tasks over one table: the same inputs, each with its own targets [N, …] by task id.

        `mask` [N, T] says which labels are known (columns in the order of `targets`, those of a frame by their names);
        rows of pandas go by their index, see `crosstask.reading.read_described`; NaN targets are unknown, too. Of
        each task only the samples that have a label are its own, and joint training passes each sample through a shared
        trunk once for all tasks that have a label for it. `splits` are row numbers by split (by default all rows are
        training data); `descriptors` say more than ids; `options` are those of every `Task`.
        """
        from crosstask.reading import rows_of_table  # deferred: a portfolio of descriptors needs no torch

        for what, told in (("targets", targets), ("descriptors", descriptors), ("splits", splits)):
            if told is not None or what == "targets":
                of_kind(told, Mapping, f"from_table: {what}")  # type: ignore[type-abstract]
        for task_id in targets:
            of_kind(task_id, str, "from_table: the id of a task")
        for given in (descriptors or {}).values():
            of_kind(given, TaskDescriptor, "from_table: what descriptors hold")
        for what, names, valid in (("task", descriptors, list(targets)), ("split", splits, SPLITS)):
            if unknown := [each for each in names or () if each not in valid]:
                raise DataError(f"from_table: unknown {what} {unknown[0]!r}{nearest(unknown[0], valid)}")
        portfolio = cls(name=name)
        own: dict[str, Any]
        for task_id, own in rows_of_table(inputs, targets, mask, splits).items():
            descriptor = (descriptors or {}).get(task_id) or TaskDescriptor(task_id=task_id)
            portfolio.add(Task(descriptor=descriptor, **{**options, **own}))
        return portfolio

    def add(self, task: Task, *, unseen: bool = False) -> None:
        """Add a task. DataError if the id is taken."""
        of_kind(task, Task, "what is added to a portfolio")
        if task.task_id in self._tasks or task.task_id in self._unseen:
            raise DataError(f"portfolio {self.name!r} already has a task {task.task_id!r}")
        (self._unseen if unseen else self._tasks)[task.task_id] = task

    def remove(self, task_id: str) -> None:
        """Take a task out again. DataError for one that is not here."""
        self[task_id]
        self._tasks.pop(task_id, None)
        self._unseen.pop(task_id, None)

    def __repr__(self) -> str:
        names = ", ".join([*self.ids[:8], *(["..."] if len(self) > 8 else [])])
        unseen = f"; {len(self._unseen)} unseen" if self._unseen else ""
        return f"{type(self).__name__}({self.name!r}: {len(self)} tasks{': ' if names else ''}{names}{unseen})"

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks.values())

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, task_id: object) -> bool:
        return isinstance(task_id, str) and task_id in self._tasks

    def __getitem__(self, task_id: str) -> Task:
        task = None
        if isinstance(task_id, str):
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
        chosen = structure(pairs, tuple[tuple[str, str], ...], "the pairs of a restricted portfolio")
        view._chosen = dict.fromkeys(chosen)
        for source, target in view._chosen:
            for end in (source, target):
                if self[end].task_id not in self._tasks and (end == source or end != self.focus):
                    raise DataError(f"task {end!r} is held back as unseen: it is not paired")
            if source == target:
                raise DataError(f"a pair of task {source!r} with itself")
        return view

    def has_pair(self, source: str, target: str) -> bool:
        """Whether `pairs` has this one (source id, target id), without going through them."""
        if self._chosen is not None and (source, target) not in self._chosen:
            return False
        inside = source in self and (target in self or target == self.focus)
        return inside and source != target and self.focus in (None, source, target)

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

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for task in (*self, *self.unseen):
            told = task.descriptor
            row = {"task_id": task.task_id, "task_type": told.task_type, "domain": told.domain}
            sizes = {"input_shape": told.input_shape, "output_dim": told.output_dim, "samples": told.sample_count}
            rows.append({**row, **sizes, "model": task.model is not None, "unseen": task.task_id in self._unseen})
        return rows

    def to_frame(self) -> pd.DataFrame:
        """A pandas frame with a row for each task, those held back last. CrosstaskError without pandas."""
        return frame(self._rows(), ("task_id",))

    def _repr_html_(self) -> str:
        rows = self._rows()
        title = f"Portfolio {self.name}: {len(self)} tasks" + (f", {len(self._unseen)} unseen" if self._unseen else "")
        return table(title, tuple(rows[0]) if rows else ("task_id",), [tuple(row.values()) for row in rows])
