"""The `mas` strategy."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from torch import Tensor

from crosstask.learning.fisher import gradient_moments
from crosstask.options import component, option, state
from crosstask.tasks import Task
from crosstask_continual import ContinualModel, ContinualStrategy
from crosstask_continual.consolidation import Pull, check_importance, fitted, merged, weights_of


@component
class MAS(ContinualStrategy):
    """Memory-aware synapses: weights are held that change the outputs, whatever the labels (Aljundi et al. 2018).

    A weight's importance is the mean over samples of |∂ |f(x)|² / ∂θ| (equation 4), from per-sample gradients of the
    outputs that count for the task; tasks add up, and all are merged into one quadratic.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"task", "domain"})
    unsuited: ClassVar[dict[str, str]] = {
        "class": "it holds weights, but no loss ever compares a class of one task with one of another; use replay"
    }

    strength: float = option(1.0, ge=0, help="of the penalty, beside a loss that is a mean over samples")
    samples: int | None = option(None, ge=1, help="measure on so many samples of a task (all by default)")
    importance: dict[str, Tensor] = state(factory=dict)
    centre: dict[str, Tensor] = state(factory=dict)
    _pull: Pull | None = attrs.field(default=None, init=False, repr=False)

    def task_begins(self, model: ContinualModel, task: Task) -> None:
        self._pull = Pull(model, self.importance, self.centre) if self.importance and self.strength else None

    def after_backward(self, model: ContinualModel) -> None:
        if self._pull is not None:
            self._pull.add_gradient(2 * self.strength)  # the paper's penalty has no half

    def task_ends(self, model: ContinualModel, task: Task) -> None:
        self._pull = None
        inputs, span = model.data(task).inputs, model.span(model.number(task))
        if self.samples is not None and self.samples < len(inputs):
            chosen = torch.randperm(len(inputs), generator=model.generator)[: self.samples]
            inputs = inputs[chosen.to(inputs.device)]
        found = gradient_moments(model, inputs, lambda outputs, _: [outputs[:, span].square().sum(1)], power=1)
        check_importance(found, self.origin, task.task_id, "the model's outputs do not depend on its weights")
        before, now = fitted(self.importance, model), weights_of(model)
        self.importance, self.centre = merged(before, fitted(self.centre, model), found, now)
