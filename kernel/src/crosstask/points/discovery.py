"""Discoverers: find which task helps which."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from crosstask.components import Component, hook
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.tasks import Portfolio


class Discoverer(Component):
    """Finds transfer edges. Discoverers of a run are called one by one, in order; each sees in `graph` what the
    ones before it found.

    Capabilities: `descriptors_only` (needs neither data nor models: cheap enough to run whenever a task is registered).
    """

    point: ClassVar[str] = "discovery"

    @abstractmethod
    @hook(first=True, returns=list, of=TransferEdge)
    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        """Edges between tasks of the portfolio. Consider `portfolio.pairs()` only: with a focus, these are the pairs of
        one task. Add nothing to `graph`; the run does.
        """
