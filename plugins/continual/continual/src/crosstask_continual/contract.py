"""Continual learning: what keeps a model from forgetting earlier tasks while it learns the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from crosstask.components import Component, hook

if TYPE_CHECKING:
    from torch import Tensor

    from crosstask.tasks import Task
    from crosstask_continual.batch import Batch
    from crosstask_continual.model import ContinualModel


class ContinualStrategy(Component):
    """Every hook has a default that does nothing; write those you need: in a step, the learner
    (`crosstask_continual.ContinualLearner`) calls only hooks that a strategy has written. Strategies compose: each of a
    learner's is asked, in order.

    `model` is a `ContinualModel`: the network as `model.network`, which outputs belong to which task, and the loss that
    counts only the outputs that may be chosen. Its head may have more outputs in a later task than in an earlier one.
    Only weights that need a gradient are learned; leave the others as they are (an adapter may be on a frozen network).

    Capabilities: `task`, `domain`, `class`: the scenarios in which it can keep a model from forgetting. The learner
    warns about one used in another scenario, with the reason from `unsuited`.
    """

    point: ClassVar[str] = "continual"

    unsuited: ClassVar[Mapping[str, str]] = {}
    """Scenario -> why this strategy cannot work in it, for those that `capabilities` does not list."""

    @hook()
    def task_begins(self, model: ContinualModel, task: Task) -> None:
        """A task is about to be learned: its outputs are laid out, its weights and optimiser are not yet touched."""

    @hook()
    def replay(self, batch: Batch) -> Batch | None:
        """Samples of earlier tasks to learn beside this batch; None for none. `batch` holds what the step learns so
        far: samples of the current task and then `batch.replayed` that strategies before this one have added.
        """

    @hook()
    def penalty(self, model: ContinualModel, batch: Batch, outputs: Tensor) -> Tensor | None:
        """A loss to add to that of the task; None for none. `outputs` are the model's for `batch`, which holds the
        samples of the current task first and then `batch.replayed` others.
        """

    @hook()
    def after_backward(self, model: ContinualModel) -> None:
        """Gradients are in `.grad` and may be changed (a penalty with a closed-form gradient, a projection)."""

    @hook()
    def after_step(self, model: ContinualModel) -> None:
        """The optimiser has stepped (a proximal step, a path integral)."""

    @hook()
    def task_ends(self, model: ContinualModel, task: Task) -> None:
        """A task has been learned: measure what matters to it, keep samples."""

    @hook()
    def resumes(self, model: ContinualModel) -> None:
        """The state of this strategy was just loaded: give the network the structure it had; its weights follow."""
