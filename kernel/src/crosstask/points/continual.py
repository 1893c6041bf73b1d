"""Continual learning: what keeps a model from forgetting earlier tasks while it learns the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from crosstask.components import Component, hook

if TYPE_CHECKING:
    from torch import Tensor, nn

    from crosstask.learning.continual import Batch
    from crosstask.tasks import Task


class ContinualStrategy(Component):
    """Every hook has a default that does nothing; write those you need. `crosstask.learning.ContinualLearner` calls,
    in a step, only hooks that a strategy has written. Strategies compose: each of a learner's is asked.

    Capabilities: `task`, `domain`, `class`: the scenarios in which it can keep a model from forgetting. The learner
    warns about one used in another scenario.
    """

    point: ClassVar[str] = "continual"

    @hook()
    def task_begins(self, model: nn.Module, task: Task) -> None:
        """A task is about to be learned."""

    @hook()
    def replay(self, batch: Batch) -> Batch | None:
        """Samples of earlier tasks to learn beside this batch of the current one; None for none."""

    @hook()
    def penalty(self, model: nn.Module, batch: Batch, outputs: Tensor) -> Tensor | None:
        """A loss to add to that of the task; None for none. `outputs` are the model's for `batch`."""

    @hook()
    def after_backward(self, model: nn.Module) -> None:
        """Gradients are in `.grad` and may be changed (a penalty with a closed-form gradient, a projection)."""

    @hook()
    def after_step(self, model: nn.Module) -> None:
        """The optimiser has stepped (a proximal step, a path integral)."""

    @hook()
    def task_ends(self, model: nn.Module, task: Task) -> None:
        """A task has been learned: measure what matters to it, keep samples."""
