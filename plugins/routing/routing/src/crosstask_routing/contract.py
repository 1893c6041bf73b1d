"""Routers: which of several tools to use for a context, learned from what came of it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crosstask.components import Component, hook

Array = NDArray[np.float64]
"""Numbers in double precision."""


class Decision(NamedTuple):
    """The tool chosen; how probable it was, before any draw, that this decision would take another tool than the one
    with the highest estimate; the expected rewards, in the order of the tools asked about.
    """

    tool: str
    """Which one to use."""
    exploration: float
    """In 0..1; 0 where the best is certain to be taken."""
    estimates: Array
    """Expected rewards [T]."""


class Router(Component):
    """Chooses among tools for a context, a vector of numbers, and learns from the reward of the tool that was used.

    A tool is known by its name and exists from its first use on; which ones may be chosen is said in every call, so
    that tools come and go. Rewards are about 0 to 1: 1 is what the best outcome is worth. A context may grow at its
    end: what was not there before counts as 0 in everything that was seen, and a shorter one is refused.

    All that a router has learned, its random numbers included, is in `state_dict`, which is plain JSON: one that loads
    it goes on to the last digit.

    Capabilities: `contextual` (it can learn that another tool is best in another context), `forgets` (what it has seen
    counts less the longer ago it was: it follows tools that change), `estimates` (it says what reward to expect of
    every tool, before any was used, too).
    """

    point: ClassVar[str] = "router"

    @abstractmethod
    @hook(first=True, returns=Decision)
    def choose(self, context: Array, tools: tuple[str, ...]) -> Decision:
        """Which of `tools` to use for a context [d], float64. It changes no estimate. DataError for a context that is
        not finite or too short, and where there is no tool, or one named twice.
        """

    @abstractmethod
    @hook(first=True)
    def update(self, context: Array, tool: str, reward: float) -> None:
        """What came of using a tool for a context [d]. DataError, with nothing learned, for what is not finite."""

    @abstractmethod
    @hook(first=True)
    def forget(self, tool: str) -> None:
        """A tool is gone: if one of that name comes later, it is a new one. Nothing happens if it was never used."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What it has learned, as plain JSON."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned. PluginError for a dict of another shape."""
