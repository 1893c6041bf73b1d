"""The `si` strategy."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from torch import Tensor

from crosstask.options import component, option, state
from crosstask.tasks import Task
from crosstask_continual import ContinualModel, ContinualStrategy
from crosstask_continual.consolidation import Pull, check_importance, fitted, weights_of


@attrs.define(eq=False)
class _Path:
    """What one task's training has brought so far, parameter by parameter."""

    names: list[str]
    parameters: list[Tensor]
    start: list[Tensor]
    work: list[Tensor]
    before: list[Tensor]
    gradients: list[Tensor]


@component
class SI(ContinualStrategy):
    """Synaptic intelligence (Zenke et al. 2017): a weight matters as much as its path lowered the loss.

    While a task is learned ω adds up -gradient · step of each weight, of the task's loss without this penalty; at its
    end Ω += ω / (distance² + xi), negative ω counting as none (equation 5), and strength · Σ Ω (θ - θ*)² (equation 4)
    holds the weights. Of all earlier tasks the last weights are the centre, as in the paper.

    Beside other strategies put it first: gradients that a strategy before it has added are taken for the task's.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"task", "domain"})
    unsuited: ClassVar[dict[str, str]] = {
        "class": "it holds weights, but no loss ever compares a class of one task with one of another; use replay"
    }

    strength: float = option(1.0, ge=0, help="of the penalty (c in the paper)")
    xi: float = option(1e-3, gt=0, help="damping where a weight has hardly moved")
    importance: dict[str, Tensor] = state(factory=dict)
    centre: dict[str, Tensor] = state(factory=dict)
    _pull: Pull | None = attrs.field(default=None, init=False, repr=False)
    _path: _Path | None = attrs.field(default=None, init=False, repr=False)

    def task_begins(self, model: ContinualModel, task: Task) -> None:
        self._pull = Pull(model, self.importance, self.centre) if self.importance and self.strength else None
        known = {name: p for name, p in model.named_parameters() if p.requires_grad}
        parameters: list[Tensor] = list(known.values())

        def blank() -> list[Tensor]:
            return [torch.zeros_like(p, requires_grad=False) for p in parameters]

        start = [p.detach().clone() for p in parameters]
        self._path = _Path(list(known), parameters, start, blank(), blank(), blank())

    @torch.no_grad()
    def after_backward(self, model: ContinualModel) -> None:
        path = self._path
        assert path is not None
        for kept, p in zip(path.gradients, path.parameters, strict=True):
            if p.grad is None:
                kept.zero_()
            else:
                kept.copy_(p.grad.conj())  # the real part of its product with a step is what both parts bring
        torch._foreach_copy_(path.before, path.parameters)
        if self._pull is not None:
            self._pull.add_gradient(2 * self.strength)

    @torch.no_grad()
    def after_step(self, model: ContinualModel) -> None:
        path = self._path
        assert path is not None
        torch._foreach_sub_(path.before, path.parameters)  # minus the step
        torch._foreach_addcmul_(path.work, path.gradients, path.before)

    def task_ends(self, model: ContinualModel, task: Task) -> None:
        path, now = self._path, weights_of(model)
        assert path is not None
        new = {}
        for name, start, work in zip(path.names, path.start, path.work, strict=True):
            new[name] = work.real.clamp_min(0) / ((now[name] - start).abs() ** 2 + self.xi)
        check_importance(new, self.origin, task.task_id, "the task's training has not lowered its loss")
        before = fitted(self.importance, model)
        self.importance = {name: before[name] + value if name in before else value for name, value in new.items()}
        self.centre = now
        self._pull = self._path = None
