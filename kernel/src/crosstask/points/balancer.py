"""Gradient balancers: one update from the gradients of several tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, final

import attrs
import torch
from torch import Tensor, nn

from crosstask.components import Component, hook
from crosstask.errors import DataError, PluginError
from crosstask.learning.gradients import (
    GradientOverflowError,
    MatrixGradients,
    Mode,
    TaskGradients,
    conflict_metrics,
    gradients_of,
)
from crosstask.logs import logger


@attrs.frozen(eq=False)
class Direction:
    """An update that is not only a weighted sum of the task gradients: `weights @ gradients + vector`.

    `weights` [T] may be None (no such part), and so may `vector` [D].
    """

    vector: Tensor | None = None
    weights: Tensor | None = None


@attrs.frozen(eq=False)
class Balanced:
    """One step: the task weights [T], the Gram matrix [T, T] if the balancer asked for it, how it was computed, and
    the names of the tasks.
    """

    weights: Tensor
    gramian: Tensor | None
    chosen: str
    names: tuple[str, ...] = ()

    @property
    def conflicts(self) -> dict[str, float]:
        """Conflicts among the gradients (see `conflict_metrics`); empty where the Gram matrix is not known."""
        return {} if self.gramian is None else conflict_metrics(self.gramian)


class Balancer(Component):
    """Write one method, whichever is shorter:

    - `balance(losses, gradients)`: ask `gradients` for no more than you need (nothing, `gramian`, `dot(v)`, `matrix`)
      and return task weights [T], or a `Direction`;
    - `combine(gradients)`: from the matrix [T, D] to the update [D].

    What it keeps for a task from step to step it keeps by the task's name (`gradients.names`), because a step may have
    only some of the tasks, new ones, or the same in another order: a task that is absent keeps its state, a new one
    begins afresh. `crosstask.learning.gradients.named` helps with that.

    Everything else follows. Set `weighs_losses` if the weights belong to the whole loss, task-specific parameters
    included, as in loss weighting; otherwise those get the plain gradient of their own task's loss.

    Capabilities: `permutation_invariant` (reordering tasks changes nothing), `scale_equivariant` (scaling every
    gradient scales the update), `non_conflicting` (the update has no negative inner product with any task's gradient),
    `linear_under_scaling`, `convex_weights` (weights are non-negative and sum to one), `needs_losses`,
    `stochastic` (draws random numbers).
    """

    point: ClassVar[str] = "balancer"
    weighs_losses: ClassVar[bool] = False
    """Whether its weights are those of the whole losses, task-specific parameters included."""
    least_tasks: ClassVar[int] = 1
    """The fewest tasks that it can balance: `backward` refuses fewer, and the kit tries no fewer."""

    _last: Balanced | None = None

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if cls.balance is Balancer.balance and cls.combine is Balancer.combine:
            raise PluginError(f"{cls.__name__} must define `balance` or `combine`")

    @hook(first=True)
    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor | Direction:
        """Task weights [T] (any sign, detached), or a Direction. `losses` [T] are detached values."""
        return Direction(vector=self.combine(gradients.matrix))

    def combine(self, gradients: Tensor) -> Tensor:
        """The update [D] for the task gradients [T, D], without a model or losses (taken as ones)."""
        lazy = MatrixGradients(gradients)
        losses = torch.ones(len(gradients), dtype=gradients.dtype, device=gradients.device)
        return lazy.assemble(*parts(self.balance(losses, lazy), len(gradients), self.origin))

    def parameters(self) -> list[nn.Parameter]:
        """Parameters of the balancer that the model's optimiser should train (for example log variances).

        `balance` adds to their `.grad`, by a new tensor. There may be more of them after a step that has new tasks, at
        the end of the list: whoever trains them adds those to the optimiser.
        """
        return []

    @final
    def backward(
        self,
        losses: Sequence[Tensor] | Mapping[str, Tensor] | Tensor,
        shared: Iterable[nn.Parameter] | None = None,
        task_specific: Iterable[nn.Parameter] | None = None,
        *,
        features: Tensor | Sequence[Tensor] | bool = (),
        mode: Mode = "auto",
        memory: int | None = None,
        scaler: torch.amp.GradScaler | None = None,
        group: Any = None,
        retain_graph: bool = False,
    ) -> Tensor:
        """Add to `.grad` the balanced gradient of `shared` and the gradient of `task_specific`; return weights [T].

        `losses` are scalars with a graph, not scaled. Without `shared`, the parameters that two or more losses reach
        are found; without `task_specific`, all others that they reach (an empty list: none). The keys of a mapping are
        the tasks' names, under which a balancer keeps what it knows of them; others are called "0", "1", ….
        `features`: balance gradients on these shared features instead, which is much cheaper and not quite the same
        (True: on the tensor where the losses' graphs meet). `mode`, `memory`: how gradients are computed, see
        `crosstask.learning.gradients_of`. `scaler`: of mixed precision; `.grad` is scaled as it expects, and if a
        gradient overflows it is left so that the scaler skips the step. `group`: under torch.distributed, the processes
        whose means are balanced (None: all; False: this one); do not wrap the model in DistributedDataParallel too.
        RunError if a loss is not finite. DataError for fewer losses than `least_tasks`.
        """
        named = {str(name): loss for name, loss in losses.items()} if isinstance(losses, Mapping) else {}
        values = list(losses.values()) if isinstance(losses, Mapping) else list(losses)
        if named and len(named) < len(values):
            raise DataError(f"{self.origin}: two tasks have the same name: {list(map(str, losses))}")
        if 0 < len(values) < self.least_tasks:
            raise DataError(f"{self.origin} needs at least {self.least_tasks} tasks, got {len(values)}")
        scale = 1.0
        if scaler is not None and scaler.is_enabled() and values:
            scale = float(scaler.scale(torch.ones((), device=values[0].device)))
        gradients = gradients_of(
            named or values,
            shared,
            task_specific,
            features=features,
            mode=mode,
            memory=memory,
            scale=scale,
            group=group,
            retain_graph=retain_graph,
        )
        detached = torch.stack([loss.detach() for loss in values])
        # Weights are of their type, and 1/|g| is soon beyond half precision.
        detached = gradients.group.mean(detached.to(torch.promote_types(detached.dtype, torch.float32)))
        before = {p: p.grad for p in self.parameters()}
        if scale != 1.0:
            for parameter in before:
                parameter.grad = None
        try:
            answer = self.context.call(self, "balance", losses=detached, gradients=gradients)
            weights, vector = parts(answer, len(values), self.origin)
        except GradientOverflowError:
            weights, vector = torch.ones_like(detached), None
        if scale != 1.0:
            for parameter in self.parameters():  # the scaler will divide these gradients too; some may be new
                old, now = before.get(parameter), None if parameter.grad is None else parameter.grad * scale
                parameter.grad = now if old is None else old if now is None else old + now
        written = gradients.write(weights, vector, self.weighs_losses)
        if self._last is None or self._last.chosen != gradients.chosen:  # once, not on every step
            logger().debug("task_gradients", balancer=self.origin, tasks=len(values), chosen=gradients.chosen)
        self._last = Balanced(written, gradients.known_gramian, gradients.chosen, gradients.names)
        return written

    @property
    def last(self) -> Balanced | None:
        """What the last `backward` did."""
        return self._last


def parts(answer: Tensor | Direction, tasks: int, origin: str) -> tuple[Tensor | None, Tensor | None]:
    """(weights, vector) of a balancer's answer; PluginError names the balancer if its shape is wrong."""
    weights, vector = (answer.weights, answer.vector) if isinstance(answer, Direction) else (answer, None)
    if weights is None and vector is None:
        raise PluginError(f"{origin}: balance returned neither weights nor a direction")
    if weights is not None and (not isinstance(weights, Tensor) or weights.shape != (tasks,)):
        got = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise PluginError(f"{origin}: balance must return weights of shape ({tasks},) or a Direction, got {got}")
    return weights, vector
