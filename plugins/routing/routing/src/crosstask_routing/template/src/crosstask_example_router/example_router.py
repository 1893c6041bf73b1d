"""The best tool so far in contexts of the same kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from crosstask.errors import PluginError
from crosstask.options import component, option, state
from crosstask_routing import Decision, Router
from crosstask_routing.contexts import as_context, check_reward, check_tools


@component
class ExampleRouter(Router):
    """Counts and sums rewards by the largest number of the context, and takes the tool with the largest upper bound
    there: mean + √(width ln n / uses). A tool that was not used in such a context is tried first.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"contextual"})

    width: float = option(0.5, ge=0, help="of the bound; 0: greedy after one use of each")

    sums: dict[str, dict[str, list[float]]] = state(factory=dict)
    """By the place of the largest number, then by tool: uses, sum of rewards."""
    length: int = state(0)

    def choose(self, context: np.ndarray, tools: tuple[str, ...]) -> Decision:
        known = self.sums.get(self._kind(context), {})
        rows = [known.get(tool, [0.0, 0.0]) for tool in check_tools(tools, self.origin)]
        total = math.log(max(1.0, sum(uses for uses, _ in rows)))
        means = np.array([rewards / uses if uses else 0.0 for uses, rewards in rows])
        bounds = means + [math.sqrt(self.width * total / uses) if uses else math.inf for uses, _ in rows]
        best = int(np.argmax(bounds))
        return Decision(tools[best], float(best != means.argmax()), means)

    def update(self, context: np.ndarray, tool: str, reward: float) -> None:
        kind = self._kind(context)
        check_reward(reward, self.origin)
        (name,) = check_tools((tool,), self.origin)
        self.length = len(context)
        row = self.sums.setdefault(kind, {}).setdefault(name, [0.0, 0.0])
        row[0] += 1
        row[1] += float(reward)

    def forget(self, tool: str) -> None:
        for known in self.sums.values():
            known.pop(tool, None)

    def state_dict(self) -> dict[str, Any]:
        sums = {kind: {tool: list(row) for tool, row in known.items()} for kind, known in self.sums.items()}
        return {"sums": sums, "length": self.length}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        try:
            sums = {str(k): {str(t): [float(n), float(r)] for t, (n, r) in v.items()} for k, v in state["sums"].items()}
            length = int(state["length"])
            if set(state) != {"sums", "length"}:
                raise ValueError(f"it has {sorted(state)}")
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise PluginError(f"{self.origin}: this is not the state of such a router: {error}") from None
        self.sums, self.length = sums, length

    def _kind(self, context: Sequence[float]) -> str:
        return str(int(as_context(context, self.length, self.origin).argmax()))
