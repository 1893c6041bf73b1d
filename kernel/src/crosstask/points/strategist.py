"""Strategists: which strategies to use for a task, by what earlier runs of the store came to."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from crosstask.components import Component, hook
from crosstask.records import StrategyAdvice
from crosstask.tasks import Portfolio, Task


class Strategist(Component):
    """Recommends strategies for a task. `TransferEngine.advise` asks the default one, if any is installed.

    What was found before is in `self.context.past(kind)`: of kind `transfers` `TransferResult`s as plain data, of
    `stages` finished stages (their `record`), of `tasks` the descriptors of registered tasks. It may be of any age and
    from anybody: read what has the shape you know, leave out the rest. A task counts by what its descriptor says of it
    (samples, classes, inputs, type), never by its name.
    """

    point: ClassVar[str] = "strategist"

    @abstractmethod
    @hook(first=True, returns=list, of=StrategyAdvice)
    def suggest(self, task: Task, portfolio: Portfolio, usual: dict[str, str]) -> list[StrategyAdvice]:
        """One advice for each kind of strategy in `usual`, in its order; `usual` has the component of each kind
        (`transfer`, `balancer`, `synthesis`) that is used where none is named: recommended where nothing speaks for
        another. `portfolio` are the tasks of this run.
        """
