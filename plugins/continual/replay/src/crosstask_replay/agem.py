"""The `agem` strategy."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from torch import Tensor

from crosstask.options import component, option, state
from crosstask.tasks import Task
from crosstask_continual import ContinualModel, ContinualStrategy
from crosstask_replay.buffer import batch_from, columns_of, draw, inserted, reservoir, size_of


@component
class AGEM(ContinualStrategy):
    """Averaged gradient episodic memory (Chaudhry et al. 2019): no step may raise the loss of remembered samples.

    Where the gradient g points against the gradient r of a draw from memory, its part along r is taken off
    (equation 11): g - (gᵀr / rᵀr) r. The remembered samples are not learned otherwise.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"task", "domain", "class"})

    buffer_size: int = option(1000, ge=1, help="samples kept, of all tasks together")
    replay_size: int = option(128, ge=1, help="samples of the memory in each step")
    memory: dict[str, Tensor] = state(factory=dict)
    seen: int = state(0)
    _generator: torch.Generator | None = attrs.field(default=None, init=False, repr=False)

    def task_begins(self, model: ContinualModel, task: Task) -> None:
        self._generator = model.generator

    def after_backward(self, model: ContinualModel) -> None:
        held = size_of(self.memory)
        if not held:
            return
        assert self._generator is not None
        batch = batch_from(self.memory, draw(self.replay_size, held, self._generator))
        used = [p for p in model.parameters() if p.requires_grad and p.grad is not None]
        loss = model.loss(model(batch.inputs, batch.task_ids), batch)
        found = torch.autograd.grad(loss, used, allow_unused=True)
        with torch.no_grad():
            pairs = [(p.grad, r) for p, r in zip(used, found, strict=True) if p.grad is not None and r is not None]
            along = torch.stack([torch.vdot(g.flatten(), r.flatten()).real for g, r in pairs]).sum()
            square = torch.stack([torch.vdot(r.flatten(), r.flatten()).real for _, r in pairs]).sum()
            factor = torch.where(square > 0, along.clamp_max(0) / square, 0)  # no synchronisation with a device
            for g, r in pairs:
                g.sub_(r * factor)

    def task_ends(self, model: ContinualModel, task: Task) -> None:
        data, memory = model.data(task), {name: column.clone() for name, column in self.memory.items()}
        order = torch.randperm(len(data), generator=model.generator).to(data.targets.device)
        places = reservoir(self.seen, self.buffer_size, len(data), model.generator)
        inserted(memory, {name: column[order] for name, column in columns_of(data).items()}, places)
        self.memory, self.seen = memory, self.seen + len(data)
        self._generator = None
