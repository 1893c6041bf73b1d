"""What tests of routers share: a small bandit, and the smallest right router."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from crosstask.manifest import Extension, Plugin
from crosstask.options import component, option, state
from crosstask_routing.contexts import as_context, check_reward, check_tools
from crosstask_routing.contract import Array, Decision, Router
from crosstask_routing.linear import check_keys
from crosstask_routing.plugin import PLUGIN

TOOLS = ("slow", "quick", "odd")
PRICED = [[0.9, 0.3, 0.1], [0.1, 0.3, 0.9]]
"""How often each tool succeeds in the two contexts."""


class Bandit:
    """Two contexts (unit vectors), drawn in turn at random, and for each step the reward that every tool would have."""

    def __init__(self, chances: Sequence[Sequence[float]], steps: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        which = rng.integers(len(chances), size=steps)
        table = np.array(chances)[which]
        self.contexts: Array = np.eye(len(chances))[which]
        self.rewards: Array = (rng.random(table.shape) < table).astype(np.float64)
        self.best = table.argmax(axis=1)


@component
class ReferenceRouter(Router):
    """LinUCB, and with `gamma` below 1 its discounted form, written as the papers have it: from all that was seen, each
    time anew. For comparison; every step takes longer.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"contextual", "estimates"})

    alpha: float = option(1.0, ge=0, help="width of the bound")
    ridge: float = option(1.0, gt=0, help="λ of the ridge regression")
    gamma: float = option(1.0, gt=0, le=1, help="what an observation still counts one update later")

    seen: list[tuple[list[float], str, float]] = state(factory=list)
    length: int = state(0)

    def choose(self, context: Array, tools: Sequence[str]) -> Decision:
        x = as_context(context, self.length, self.origin)
        check_tools(tools, self.origin)
        found = [self._expected(x, tool) for tool in tools]
        bounds, estimates = np.array([m + self.alpha * w for m, w in found]), np.array([m for m, _ in found])
        best = int(bounds.argmax())
        return Decision(tools[best], float(best != estimates.argmax()), estimates)

    def update(self, context: Array, tool: str, reward: float) -> None:
        x = as_context(context, self.length, self.origin)
        check_reward(reward, self.origin)
        self.length = len(x)
        self.seen.append((x.tolist(), tool, float(reward)))

    def forget(self, tool: str) -> None:
        self.seen = [(x, name if name != tool else "", reward) for x, name, reward in self.seen]  # it keeps its age

    def state_dict(self) -> dict[str, Any]:
        return {"seen": [list(each) for each in self.seen], "length": self.length}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_keys(state, {"seen", "length"}, self.origin)
        if not isinstance(state["seen"], list):
            check_keys(None, {"seen"}, self.origin)
        self.seen, self.length = [(list(x), str(tool), float(r)) for x, tool, r in state["seen"]], int(state["length"])

    def _expected(self, x: Array, tool: str) -> tuple[float, float]:
        """(expected reward, width)."""
        of = [place for place, (_, name, _) in enumerate(self.seen) if name == tool]
        contexts = np.array([self.seen[place][0] + [0.0] * (len(x) - len(self.seen[place][0])) for place in of])
        contexts, rewards = contexts.reshape(len(of), len(x)), np.array([self.seen[place][2] for place in of])
        weights = self.gamma ** (len(self.seen) - 1 - np.array(of, dtype=np.float64))
        prior = self.ridge * np.eye(len(x))
        gram, squared = (prior + (w[:, None] * contexts).T @ contexts for w in (weights, weights**2))
        vector = contexts.T @ (weights * rewards)
        inverse = np.linalg.inv(gram)
        return float(x @ inverse @ vector), float(np.sqrt(x @ inverse @ squared @ inverse @ x))


REFERENCE = Plugin(
    "reference-routers",
    api=(2, 0),
    points=PLUGIN.points,
    extensions=[
        *(offer for offer in PLUGIN.extensions if offer.point == "stage"),
        Extension("router", "reference", f"{__name__}:ReferenceRouter", summary="For checks.", default=True),
    ],
)
"""For a registry of references: `crosstask.testing.reference_registry(REFERENCE)`."""
