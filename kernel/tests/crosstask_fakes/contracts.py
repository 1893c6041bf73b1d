"""Extension points that plugins bring: one that the fakes offer, and others that tests register by hand."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from crosstask.components import Component, hook


class Chooser(Component):
    """Chooses among tasks.

    Capabilities: `keeps_order` (tasks come in the order in which they were given).
    """

    point: ClassVar[str] = "chooser"

    @abstractmethod
    @hook(first=True, returns=list, of=str)
    def choose(self, tasks: list[str], most: int) -> list[str]:
        """At most `most` of the tasks, each once."""

    @hook(first=True, deprecated="use choose; it goes with chooser 2.0")
    def pick(self, tasks: list[str]) -> str | None:
        """One task."""
        return None


class Ranker(Component):
    """Has a hook of the same name as `Chooser`, and one of the same name as the kernel's `Discoverer`."""

    point: ClassVar[str] = "ranker"

    @abstractmethod
    @hook(first=True, returns=list)
    def choose(self, tasks: list[str]) -> list[str]:
        """All tasks, the best first."""

    @hook(first=True)
    def discover(self, hidden: int) -> int:
        """Something else than the kernel's."""
        return hidden


class NoComponent:
    """What a manifest may wrongly call a contract."""


def everything(tasks: list[str], most: int) -> Any:
    """A twin for the kit: not a component, only right."""
    return tasks[:most]
