"""Transfer methods: how a target task is learned from a model of a source task."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, cast

from crosstask.components import Component, hook
from crosstask.errors import DataError
from crosstask.learning.training import History
from crosstask.learning.transferring import Learns, measure_transfer
from crosstask.records import Budget, SeveralResult, TransferResult
from crosstask.tasks import Task

if TYPE_CHECKING:
    import torch
    from torch import nn

    from crosstask.graph import TransferGraph


class Transfer(Component):
    """Write `learn`; `transfer` measures it against from-scratch training with the same budget and seeds.

    One that needs more of the source than its model (its inputs, say) has a method `between(source, target)`, too, with
    two tasks: what it gives has the `learn` that is measured, and that makes the models of `TransferEngine.adapt`.

    Capabilities: `several` (it learns from several sources at once, too: `transfer_several`, and `learn` is what it
    does with one).
    """

    point: ClassVar[str] = "transfer"

    @abstractmethod
    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        """Train `model` on `task` in place and return how it went (`crosstask.learning.fit` gives a History).

        `model` has the source's trunk weights and, where the head's shape differs, a new head
        (`crosstask.learning.head_of` finds it); `source` is the untouched source model. Spend at most `budget.steps`.
        """

    @hook(first=True, returns=TransferResult)
    def transfer(self, source: Task, target: Task, budget: Budget, seeds: int, split: str) -> TransferResult:
        """Transfer from `source.model` to `target`, `seeds` times, judged on `split`. DataError if the source has no
        trained model.
        """
        if source.model is None:
            raise DataError(f"task {source.task_id!r} has no trained model to transfer from; train it first")
        return measure_transfer(learner_for(self, source, target), source, target, budget, seeds, split)

    @hook(first=True, returns=SeveralResult)
    def transfer_several(
        self,
        sources: list[Task],
        target: Task,
        graph: TransferGraph | None,
        train: Budget,
        budget: Budget,
        seeds: int,
        split: str,
    ) -> SeveralResult:
        """Learn `target` from several sources that have models and fit it, `seeds` times, judged on `split`; of the
        first seed the result holds the model. Which of them, says the `graph`; None: those that the user named, the
        best first. Each training on the target may spend `budget`, one of a source `train`.

        Whatever is chosen is chosen on training and validation data, never on `split`. DataError if none can be used.
        """
        raise DataError(f"{self.origin} learns from one source: a method with the capability 'several' is needed")


def learner_for(method: Transfer, source: Task, target: Task) -> Learns:
    """What learns `target` from `source`: what the method's `between(source, target)` gives, if it has one, which may
    know more of the source than its model; else the method itself. What `between` gives has the method's identity.
    """
    between = getattr(method, "between", None)
    return method if between is None else cast(Learns, between(source, target))
