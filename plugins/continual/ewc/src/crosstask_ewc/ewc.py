"""The `ewc` strategy."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from torch import Tensor

from crosstask.learning.fisher import fisher_diagonal
from crosstask.options import component, option, state
from crosstask.tasks import Task
from crosstask_continual import ContinualModel, ContinualStrategy
from crosstask_continual.consolidation import Pull, check_importance, fitted, merged, weights_of


@component
class EWC(ContinualStrategy):
    """Elastic weight consolidation: strength/2 Σ F (θ - θ*)² holds each weight as firmly as the Fisher says.

    `offline` (Kirkpatrick et al. 2017, equation 3) sums over all earlier tasks, merged exactly into one quadratic;
    `online` (Schwarz et al. 2018, equation 9) keeps one, around the last weights, whose Fisher fades by `decay` with
    each task. The Fisher diagonal is exact, from per-sample gradients in evaluation mode.

    The penalty's gradient is added in closed form, and not part of the loss that is reported. `proximal` takes its
    proximal step after the optimiser's instead: stable at every strength.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"task", "domain"})
    unsuited: ClassVar[dict[str, str]] = {
        "class": "it holds weights, but no loss ever compares a class of one task with one of another, so that the "
        "last task's classes win; combine it with replay, or use replay alone"
    }

    strength: float = option(10_000.0, ge=0, help="of the penalty, beside a loss that is a mean over samples")
    mode: str = option("offline", choices=("offline", "online"), help="all earlier tasks, or one fading summary")
    decay: float = option(0.9, ge=0, le=1, help="what remains of the Fisher after each task (online)")
    labels: str = option(
        "data", choices=("data", "sampled", "expected"), help="labels of the Fisher: the data's or the model's own"
    )
    samples: int | None = option(None, ge=1, help="measure the Fisher on so many samples of a task (all by default)")
    proximal: bool = option(False, help="a proximal step after the optimiser's instead of a gradient")
    importance: dict[str, Tensor] = state(factory=dict)
    centre: dict[str, Tensor] = state(factory=dict)
    _pull: Pull | None = attrs.field(default=None, init=False, repr=False)

    def task_begins(self, model: ContinualModel, task: Task) -> None:
        self._pull = Pull(model, self.importance, self.centre) if self.importance and self.strength else None

    def after_backward(self, model: ContinualModel) -> None:
        if self._pull is not None and not self.proximal:
            self._pull.add_gradient(self.strength)

    def after_step(self, model: ContinualModel) -> None:
        if self._pull is not None and self.proximal:
            self._pull.step(self.strength * model.learning_rate)

    def task_ends(self, model: ContinualModel, task: Task) -> None:
        self._pull = None
        found = self._fisher(model, task)
        check_importance(found, self.origin, task.task_id, "take labels = 'expected', or train for fewer epochs")
        before, now = fitted(self.importance, model), weights_of(model)
        if self.mode == "online":
            self.importance = {n: f + self.decay * before[n] if n in before else f for n, f in found.items()}
            self.centre = now
        else:
            self.importance, self.centre = merged(before, fitted(self.centre, model), found, now)

    def _fisher(self, model: ContinualModel, task: Task) -> dict[str, Tensor]:
        number, batch = model.number(task), model.data(task)
        if self.samples is not None and self.samples < len(batch):
            chosen = torch.randperm(len(batch), generator=model.generator)[: self.samples]
            batch = batch.part(chosen.to(batch.targets.device))
        span = model.span(number)
        return fisher_diagonal(
            model,
            batch.inputs,
            batch.targets - span.start,
            labels=self.labels,
            select=lambda outputs: outputs[:, span],
            generator=model.generator,
        )
