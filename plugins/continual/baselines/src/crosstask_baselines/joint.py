"""The `joint` strategy."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from torch import Tensor

from crosstask.options import component, state
from crosstask.tasks import Task
from crosstask_continual import Batch, ContinualModel, ContinualStrategy


@component
class Joint(ContinualStrategy):
    """Every task is learned together with all data of those before it: an upper bound, whose cost grows with each task.

    A step brings in so many of the kept samples that an epoch passes over all of them once, in random order, while it
    passes over the current task's.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"task", "domain", "class"})

    kept: list[Tensor] = state(factory=list)
    _generator: torch.Generator | None = attrs.field(default=None, init=False, repr=False)
    _order: Tensor | None = attrs.field(default=None, init=False, repr=False)
    _share: float = attrs.field(default=0.0, init=False, repr=False)
    _owed: float = attrs.field(default=0.0, init=False, repr=False)

    def task_begins(self, model: ContinualModel, task: Task) -> None:
        self._generator, self._order, self._owed = model.generator, None, 0.0
        self._share = len(self.kept[1]) / len(task.data("train")) if self.kept else 0.0

    def replay(self, batch: Batch) -> Batch | None:
        if not self.kept:
            return None
        self._owed += self._share * (len(batch) - batch.replayed)
        count = int(self._owed + 1e-6)
        self._owed -= count
        rows = self._next(count).to(self.kept[1].device)
        inputs, targets, task_ids = (column[rows] for column in self.kept)
        return Batch(inputs, targets, task_ids)

    def _next(self, count: int) -> Tensor:
        """The next samples of an endless shuffled stream of all that is kept."""
        rest = torch.empty(0, dtype=torch.long) if self._order is None else self._order
        while len(rest) < count:
            rest = torch.cat([rest, torch.randperm(len(self.kept[1]), generator=self._generator)])
        self._order = rest[count:]
        return rest[:count]

    def task_ends(self, model: ContinualModel, task: Task) -> None:
        data = model.data(task)
        new = [data.inputs, data.targets, data.task_ids]
        self.kept = [torch.cat(pair) for pair in zip(self.kept, new, strict=True)] if self.kept else new
        self._generator = self._order = None
