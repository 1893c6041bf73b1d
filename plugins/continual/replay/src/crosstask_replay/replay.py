"""The `replay` strategy."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from torch import Tensor

from crosstask.learning.modules import evaluating
from crosstask.options import component, option, state
from crosstask.tasks import Task
from crosstask_continual import Batch, ContinualModel, ContinualStrategy
from crosstask_replay.buffer import (
    POLICIES,
    Columns,
    balanced,
    batch_from,
    columns_of,
    draw,
    inserted,
    reservoir,
    size_of,
)


@component
class Replay(ContinualStrategy):
    """Experience replay: each step learns samples of earlier tasks beside those of the current one.

    A task's samples enter the memory when it ends, each once however many epochs it was learned: by `reservoir` every
    sample of the stream is as likely to be kept; `balanced` keeps as many of each class (Chrysakis and Moens 2020);
    `prioritised` keeps like a reservoir and draws by loss^alpha (Schaul et al. 2016, equation 1), the loss that the
    sample had when it was last replayed.

    The step's loss is the mean over current and replayed samples together.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"task", "domain", "class"})

    buffer_size: int = option(1000, ge=1, help="samples kept, of all tasks together")
    buffer: str = option("reservoir", choices=POLICIES, help="which samples are kept, and how they are drawn")
    replay_size: int | None = option(None, ge=1, help="samples replayed in a step (as many as new ones by default)")
    alpha: float = option(0.6, ge=0, help="how much losses count for the draw (prioritised)")
    memory: dict[str, Tensor] = state(factory=dict)
    seen: int = state(0)
    counts: dict[int, int] = state(factory=dict)
    _generator: torch.Generator | None = attrs.field(default=None, init=False, repr=False)
    _drawn: tuple[int, Tensor] | None = attrs.field(default=None, init=False, repr=False)

    def task_begins(self, model: ContinualModel, task: Task) -> None:
        self._generator = model.generator
        self.memory = {name: column.clone() for name, column in self.memory.items()}  # a state taken stays as it is

    def replay(self, batch: Batch) -> Batch | None:
        held = size_of(self.memory)
        if not held:
            return None
        assert self._generator is not None
        weights = self.memory["losses"].pow(self.alpha) if self.buffer == "prioritised" else None
        rows = draw(self.replay_size or len(batch) - batch.replayed, held, self._generator, weights)
        self._drawn = len(batch), rows
        return batch_from(self.memory, rows)

    def penalty(self, model: ContinualModel, batch: Batch, outputs: Tensor) -> Tensor | None:
        """No penalty: what the replayed samples' losses are now."""
        if self.buffer == "prioritised" and self._drawn is not None:
            first, rows = self._drawn
            part = slice(first, first + len(rows))
            with torch.no_grad():
                losses = model.loss(outputs[part], batch.part(part), reduction="none")
                self.memory["losses"][rows.to(losses.device)] = _positive(losses)
        return None

    def task_ends(self, model: ContinualModel, task: Task) -> None:
        data = model.data(task)
        new = columns_of(data)
        if self.buffer == "prioritised":
            new["losses"] = _positive(_losses(model, data))
        # A task's samples come in random order: sorted data must not decide who stays.
        order = torch.randperm(len(data), generator=model.generator).to(data.targets.device)
        self._keep({name: column[order] for name, column in new.items()}, model.generator)
        self._generator = self._drawn = None

    def _keep(self, new: Columns, generator: torch.Generator) -> None:
        count, memory = len(new["targets"]), {name: column.clone() for name, column in self.memory.items()}
        if self.buffer == "balanced":
            labels = memory["targets"].tolist() if memory else []
            counts = dict(self.counts)
            places = balanced(labels, new["targets"].tolist(), self.buffer_size, counts, generator)
            self.counts = counts
        else:
            places = reservoir(self.seen, self.buffer_size, count, generator)
        inserted(memory, new, places)
        self.memory, self.seen = memory, self.seen + count


def _positive(losses: Tensor) -> Tensor:
    """Samples without any loss keep a small chance."""
    return losses.detach() + 1e-3


@torch.no_grad()
def _losses(model: ContinualModel, data: Batch) -> Tensor:
    found = []
    with evaluating(model):  # without dropout, and without a trace in batch statistics
        for first in range(0, len(data), 4096):
            part = data.part(slice(first, first + 4096))
            found.append(model.loss(model(part.inputs, part.task_ids), part, reduction="none"))
    return torch.cat(found)
