"""Search: which point of a space (an architecture, hyper-parameters) to evaluate next."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from crosstask.components import Component, hook
from crosstask.tasks import Task
from crosstask_search.models import ModelSpace
from crosstask_search.records import Trial
from crosstask_search.space import SearchSpace


class Search(Component):
    """Proposes points of a space by what earlier trials came to: ask and tell. Higher values are better.

    `crosstask_search.run_search` asks and tells, evaluates, keeps the trials. Let proposals depend on the trials and on
    `self.context.seed_for(…, len(trials))` alone: then a search that was killed goes on, with one worker as if it had
    not been.

    `blind` says how many of the first proposals do not depend on what trials come to: networks that these name are
    trained together where that is quicker.

    Capabilities: `no_repeats`: while a finite space has untried points, only those are proposed. `networks`: searches
    only networks, by training on the task itself, and needs `search_begins` with a task and models.
    """

    point: ClassVar[str] = "search"

    @property
    def blind(self) -> float:
        """Proposals made with fewer trials than this, running or ended, are the same whatever these came to: the first
        ones of a search that begins at random. `math.inf`: all. It is not asked of a class that has another `propose`
        than the class that says it.
        """
        return 0

    @abstractmethod
    @hook(first=True, returns=dict)
    def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
        """A valid point of the space, by parameter name. `trials` holds all so far: done, failed, and still running
        ones (value None), which a parallel search should not propose again.
        """

    @hook()
    def observe(self, trial: Trial) -> None:
        """A trial has ended. For what is cheaper to update than to compute anew from all trials."""

    @hook()
    def search_begins(self, space: SearchSpace, task: Task | None, models: ModelSpace | None) -> None:
        """A search is about to begin, or to go on. `task`, without test data, and `models`, which makes networks of
        points, are given where networks for a task are searched. Everything of an earlier search is to be forgotten.
        """


def blind_of(search: Search) -> float:
    """What a search says of its first proposals (`Search.blind`); 0 where its `propose` is of a class below the one
    that says it, which need not know of it.
    """
    for cls in type(search).__mro__:
        if "blind" in vars(cls):
            return search.blind
        if "propose" in vars(cls):
            break
    return 0.0
