"""Sources: where a portfolio of tasks comes from."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from crosstask.components import Component, hook
from crosstask.tasks import Portfolio


class Source(Component):
    """Loads tasks. Options say which and how; the same options give the same portfolio."""

    point: ClassVar[str] = "source"

    @abstractmethod
    @hook(first=True, returns=Portfolio)
    def load(self) -> Portfolio:
        """The tasks, with their data and prerequisites; tasks held back go in as `unseen`."""
