"""Two components of the fakes' own extension point, and one of another."""

from __future__ import annotations

from typing import ClassVar

from crosstask.options import component, option, state
from crosstask_fakes.contracts import Chooser, Ranker


@component
class First(Chooser):
    """The first ones."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"keeps_order"})
    share: float = option(1.0, gt=0, le=1, help="of the most that it may choose")
    asked: int = state(0)

    def choose(self, tasks: list[str], most: int) -> list[str]:
        self.asked += 1
        return tasks[: max(1, int(self.share * most))]


@component
class Last(Chooser):
    """The last ones, the very last first; its hook takes what it needs of the contract's parameters."""

    def choose(self, tasks: list[str]) -> list[str]:
        return tasks[:-2:-1]


@component
class Backwards(Ranker):
    """From Z to A."""

    def choose(self, tasks: list[str]) -> list[str]:
        return sorted(tasks, reverse=True)
