"""A smooth maximum of the losses."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from crosstask import component, option, state
from crosstask.errors import RunError
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.solvers import check_tasks
from crosstask.points.balancer import Balancer

from .positive import positive


@component
class STCH(Balancer):
    """Minimises a smooth maximum of the losses, mu log Σ exp(p_i (f_i - ideal_i) / mu), p the `preferences`.

    With `warmup` 0 the f_i are the losses. Otherwise, as in the authors' multi-task code, Σ log L_i is minimised for
    that many steps, their mean losses are taken as reference, and from then on f_i = log(L_i / reference_i), with T
    times the objective above and p_i = 1. The smaller `mu`, the more the worst task counts.

    State: the sum of the losses of the warm-up and the number of updates. RunError if preferences or ideal losses are
    not as many as the tasks, or, with a warm-up, if a loss is not positive.

    Source: Lin et al. 2024, *Smooth Tchebycheff Scalarization*, arXiv:2402.19078, equation 9.
    """

    weighs_losses: ClassVar[bool] = True
    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "scale_equivariant", "needs_losses"})

    mu: float = option(0.1, help="width of the smoothing", gt=0)
    preferences: tuple[float, ...] | None = option(None, help="weight of each task; 1/T if not given", gt=0)
    ideal: tuple[float, ...] | None = option(None, help="best possible loss of each task; 0 if not given")
    warmup: int = option(0, help="steps that make the reference for relative losses; 0 for plain losses", ge=0)

    reference: Tensor | None = state(None)
    updates: int = state(0)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        count = len(losses)
        for name in ("preferences", "ideal"):
            given = getattr(self, name)
            if given is not None and len(given) != count:
                raise RunError(f"{self.origin}: {name} has {len(given)} numbers for {count} tasks")
        values = losses.detach().double()
        if self.warmup:
            return self._relative(positive(losses, self.origin)).to(losses)
        scale = (
            values.new_full((count,), 1 / count) if self.preferences is None else values.new_tensor(self.preferences)
        )
        shifted = values if self.ideal is None else values - values.new_tensor(self.ideal)
        return (scale * (scale * shifted / self.mu).softmax(0)).to(losses)

    def _relative(self, values: Tensor) -> Tensor:
        total = torch.zeros_like(values) if self.reference is None else self.reference.to(values)
        check_tasks(self.origin, len(total), len(values))
        self.updates += 1
        if self.updates <= self.warmup:
            self.reference = total + values / self.warmup
            return 1 / values
        return len(values) * ((values / total).log() / self.mu).softmax(0) / values
