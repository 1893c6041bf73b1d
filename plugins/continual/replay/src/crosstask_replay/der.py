"""The `der++` strategy."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from crosstask.options import component, option, state
from crosstask.tasks import Task
from crosstask_continual import Batch, ContinualModel, ContinualStrategy
from crosstask_replay.buffer import batch_from, columns_of, draw, inserted, reservoir, size_of


@component
class DERPlusPlus(ContinualStrategy):
    """Dark experience replay (Buzzega et al. 2020, equation 6): the memory's samples keep the outputs they once had.

    Two draws in each step: alpha times the mean squared distance of the raw outputs from those stored with the samples,
    and beta times the loss of the labels of other samples. Samples enter a reservoir while they are learned for the
    first time, with the outputs that the model gives them then; what is stored is never refreshed.

    Outputs that a head did not have when a sample was stored are not compared.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"task", "domain", "class"})

    buffer_size: int = option(1000, ge=1, help="samples kept, of all tasks together")
    alpha: float = option(0.5, ge=0, help="weight of the stored outputs")
    beta: float = option(0.5, ge=0, help="weight of the labels")
    replay_size: int | None = option(None, ge=1, help="samples of each draw (as many as new ones by default)")
    memory: dict[str, Tensor] = state(factory=dict)
    seen: int = state(0)
    _generator: torch.Generator | None = attrs.field(default=None, init=False, repr=False)

    def task_begins(self, model: ContinualModel, task: Task) -> None:
        self._generator = model.generator

    def penalty(self, model: ContinualModel, batch: Batch, outputs: Tensor) -> Tensor | None:
        assert self._generator is not None
        new = batch.current()
        term = self._term(model, self.replay_size or len(new)) if size_of(self.memory) else None
        if batch.fresh:
            places = reservoir(self.seen, self.buffer_size, len(new), self._generator)
            inserted(self.memory, columns_of(new, outputs=outputs[: len(new)].detach()), places)
            self.seen += len(new)
        return term

    def _term(self, model: ContinualModel, count: int) -> Tensor:
        assert self._generator is not None
        held = size_of(self.memory)
        first, second = (draw(count, held, self._generator) for _ in range(2))
        rows = torch.cat([first, second])
        both = batch_from(self.memory, rows)
        outputs = model(both.inputs, both.task_ids)  # one pass for both draws
        wanted = self.memory["outputs"][first.to(outputs.device)]
        ours = outputs[: len(first), : wanted.shape[1]]
        known = torch.where(wanted.isnan(), ours.detach(), wanted)
        labels = model.loss(outputs[len(first) :], both.part(slice(len(first), None)))
        return self.alpha * functional.mse_loss(ours, known) + self.beta * labels

    def task_ends(self, model: ContinualModel, task: Task) -> None:
        self._generator = None

    def state_dict(self) -> dict[str, Any]:
        """A copy: the memory changes in place with every step."""
        return copy.deepcopy(super().state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Component.load_state_dict`."""
        super().load_state_dict(copy.deepcopy(state))
