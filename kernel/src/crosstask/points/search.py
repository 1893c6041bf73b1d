"""Search: which point of a space (an architecture, hyper-parameters) to evaluate next."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from crosstask.components import Component, hook

if TYPE_CHECKING:
    from crosstask.learning.search import SearchSpace, Trial


class Search(Component):
    """Proposes points of a space by what earlier trials came to: ask and tell. Higher values are better."""

    point: ClassVar[str] = "search"

    @abstractmethod
    @hook(first=True, returns=dict)
    def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
        """A point of the space, by parameter name. `trials` holds all so far: done, failed, and still running ones
        (value None), which a parallel search must not propose again.
        """

    @hook()
    def observe(self, trial: Trial) -> None:
        """A trial has ended. For what is cheaper to update than to compute anew from all trials."""
