"""The `aligned` transfer method."""

from __future__ import annotations

from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from crosstask.components import Context
from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.inputs import kind_of
from crosstask.learning.training import History, fit
from crosstask.learning.transferring import Learns
from crosstask.logs import logger
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.transfer import Transfer
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_alignment.contract import Alignment
from crosstask_alignment.training import fit_aligned


@component
class AlignedTransfer(Transfer):
    """Fine-tuning with an `alignment` between the inputs of the source and those of the target: the target's few labels
    are learned on features that look like those on which the source's many were.

    Everything is trained with the term beside the loss; the first steps may be those of another method (`before`):
    where the head is new, fitting it first keeps its random gradients out of the trunk. Only the inputs of the source's
    training data are used; both tasks must have inputs of one kind.

    Where only the source's model is at hand and not its inputs (`learn`, as a curriculum calls it), it is fine-tuning
    without the term, and the log says so.
    """

    alignment: Part = part("alignment", help="the term between the source's inputs and the target's")
    weight: float = option(0.1, ge=0, help="of the term, beside the target's loss")
    before: Part | None = part("transfer", None, help="a method for the first steps, such as feature_extraction")
    before_share: float = option(0.5, ge=0, lt=1, help="its share of the steps")
    _told: set[str] = attrs.field(factory=set, init=False, repr=False)

    def between(self, source: Task, target: Task) -> Learns:
        """The method with the inputs of the source. DataError without any, or if the target's differ in kind."""
        if not source.has_data():
            raise DataError(f"task {source.task_id!r} has no training data: an alignment needs its inputs")
        inputs = source.data("train").inputs
        ours, theirs = kind_of(inputs), kind_of(target.data("train").inputs)
        if ours != theirs:
            raise DataError(
                f"inputs of {source.task_id!r} and {target.task_id!r} differ in kind ({ours} and {theirs}): their "
                "features cannot be aligned"
            )
        return _Between(self, inputs)

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        if task.task_id not in self._told:
            self._told.add(task.task_id)  # said once, not of every seed
            why = "only the source's model is known, not its inputs"
            logger().warning("not_aligned", task=task.task_id, method=self.origin, why=why)
        return self.continued(model, source, task, budget, generator, None)

    def continued(
        self,
        model: nn.Module,
        source: nn.Module,
        task: Task,
        budget: Budget,
        generator: torch.Generator,
        inputs: Tensor | MultiInput | None,
    ) -> History:
        """`learn` with the source's inputs, if there are any."""
        history, steps = History(), budget.steps
        for method in self.made_of("before"):
            first = round(self.before_share * budget.steps)
            if first:
                history = method.learn(model, source, task, attrs.evolve(budget, steps=first), generator)
                steps -= first
        if inputs is None:
            return history.extend(fit(model, task, budget, generator, steps=steps))
        alignment = cast(Alignment, self.made_of("alignment")[0])
        later, _ = fit_aligned(model, task, alignment, [inputs], budget, generator, weight=self.weight, steps=steps)
        return history.extend(later)


class _Between:
    """The method, with the inputs of a source."""

    def __init__(self, method: AlignedTransfer, inputs: Tensor | MultiInput) -> None:
        self.method, self.inputs = method, inputs

    @property
    def origin(self) -> str:
        return self.method.origin

    @property
    def context(self) -> Context:
        return self.method.context

    def options(self) -> dict[str, Any]:
        return self.method.options()

    def identity(self) -> dict[str, Any]:
        return self.method.identity()

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        return self.method.continued(model, source, task, budget, generator, self.inputs)
