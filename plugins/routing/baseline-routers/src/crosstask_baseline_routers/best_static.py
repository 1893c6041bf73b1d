"""One tool for every context: the one that has been best so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from crosstask.errors import PluginError
from crosstask.options import component, option, state
from crosstask_routing.contexts import as_context, check_reward, check_tools
from crosstask_routing.contract import Array, Decision, Router
from crosstask_routing.linear import check_keys


@component
class BestStatic(Router):
    """The tool with the largest mean reward, by the bound mean + √(width ln n / uses): no context is looked at.

    It finds the best tool for everything, the yardstick of a router that looks at contexts. A tool without any use is
    tried first, and estimated at 0.

    Source: Auer, Cesa-Bianchi, Fischer 2002, *Finite-time Analysis of the Multiarmed Bandit Problem*, Machine Learning
    47, figure 1 (UCB1, whose width is 2).
    """

    width: float = option(2.0, ge=0, help="of the bound; 0: greedy after one use of each")

    sums: dict[str, list[float]] = state(factory=dict)
    """By tool: uses, sum of rewards."""
    length: int = state(0)

    def choose(self, context: Array, tools: Sequence[str]) -> Decision:
        as_context(context, self.length, self.origin)
        known = [self.sums.get(name, (0.0, 0.0)) for name in check_tools(tools, self.origin)]
        total = math.log(max(1.0, sum(uses for uses, _ in known)))
        estimates = np.array([rewards / uses if uses else 0.0 for uses, rewards in known])
        extra = [math.sqrt(self.width * total / uses) if uses else math.inf for uses, _ in known]
        best = int((estimates + extra).argmax())
        return Decision(tools[best], float(best != estimates.argmax()), estimates)

    def update(self, context: Array, tool: str, reward: float) -> None:
        x = as_context(context, self.length, self.origin)
        check_reward(reward, self.origin)
        (name,) = check_tools((tool,), self.origin)
        self.length = len(x)
        known = self.sums.setdefault(name, [0.0, 0.0])
        known[0] += 1
        known[1] += float(reward)

    def forget(self, tool: str) -> None:
        self.sums.pop(tool, None)

    def state_dict(self) -> dict[str, Any]:
        return {"sums": {name: list(known) for name, known in self.sums.items()}, "length": self.length}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_keys(state, {"sums", "length"}, self.origin)
        try:
            sums = {str(name): [float(uses), float(rewards)] for name, (uses, rewards) in state["sums"].items()}
            length = int(state["length"])
        except (AttributeError, TypeError, ValueError) as error:
            raise PluginError(f"{self.origin}: this is not the state of such a router: {error}") from None
        self.sums, self.length = sums, length
