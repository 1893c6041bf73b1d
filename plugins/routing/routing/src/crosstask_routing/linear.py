"""Ridge regressions of rewards on contexts, one for each tool, updated one observation at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from crosstask.errors import PluginError
from crosstask.options import component, option, state
from crosstask_routing.contexts import as_context, check_reward, check_tools
from crosstask_routing.contract import Array, Router

REFRESH = 512
"""Updates of one tool after which its inverse is computed anew: rank-one updates gather rounding errors."""


class Arms:
    """For each tool k of K, with contexts x [d] and rewards r: the Gram matrix A_k = ridge I + Σ x x' and its inverse,
    θ_k = A_k⁻¹ Σ r x. An update costs O(d²) (Sherman and Morrison 1950); what was never seen is the prior, θ = 0.
    """

    def __init__(self, ridge: float = 1.0, who: str = "arms") -> None:
        self.ridge, self.who = ridge, who
        self.names: list[str] = []
        self.index: dict[str, int] = {}
        self.width = 0
        self.gram, self.inverse, self.vector = np.zeros((0, 0, 0)), np.zeros((0, 0, 0)), np.zeros((0, 0))
        self.theta, self.counts = np.zeros((0, 0)), np.zeros(0, dtype=np.int64)
        self._asked: tuple[str, ...] | None = None
        self._rows: Any = None

    def look(self, context: Any, tools: Sequence[str]) -> tuple[Array, Array, Array]:
        """(the context, θ [K, d] and inverses [K, d, d] of these tools)."""
        x = as_context(context, self.width, self.who)
        if len(x) > self.width:
            self.grow(len(x))
        if tools != self._asked:
            self._ask(tools)
        if self._rows is None:
            return x, self.theta, self.inverse
        return x, self.theta[self._rows], self.inverse[self._rows]

    def _ask(self, tools: Sequence[str]) -> None:
        """Remember the rows of these tools; None where they are all rows, in their order."""
        asked = check_tools(tools, self.who)
        for name in asked:
            if name not in self.index:
                self.add(name)
        self._asked = asked
        self._rows = None if list(asked) == self.names else np.array([self.index[name] for name in asked])

    def learn(self, context: Any, tool: str, reward: float) -> None:
        """One observation."""
        x = as_context(context, self.width, self.who)
        check_reward(reward, self.who)
        if len(x) > self.width:
            self.grow(len(x))
        row = self.index.get(tool)
        if row is None:
            check_tools((tool,), self.who)
            row = self.add(tool)
        inverse, theta = self.inverse[row], self.theta[row]
        turned = inverse @ x
        scale = 1.0 + float(turned @ x)
        theta += turned * ((float(reward) - float(theta @ x)) / scale)
        inverse -= turned[:, None] * (turned / scale)
        self.gram[row] += x[:, None] * x
        self.vector[row] += float(reward) * x
        self.counts[row] += 1
        if self.counts[row] % REFRESH == 0:
            self.refresh(row)

    def refresh(self, row: int) -> None:
        """The inverse and θ of one tool, computed anew from what was summed."""
        made = np.linalg.inv(self.gram[row])
        self.inverse[row] = (made + made.T) / 2
        self.theta[row] = self.inverse[row] @ self.vector[row]

    def add(self, name: str) -> int:
        """A tool that was not there: its row."""
        self.names.append(name)
        self.index[name] = len(self.names) - 1
        prior = np.eye(self.width)[None]
        self.gram = np.concatenate([self.gram, self.ridge * prior])
        self.inverse = np.concatenate([self.inverse, prior / self.ridge])
        self.vector = np.concatenate([self.vector, np.zeros((1, self.width))])
        self.theta = np.concatenate([self.theta, np.zeros((1, self.width))])
        self.counts = np.append(self.counts, 0)
        self._asked = None
        return self.index[name]

    def grow(self, width: int) -> None:
        """Contexts of more numbers: the new ones were 0 in all that was seen."""
        more = width - self.width
        square, flat = ((0, 0), (0, more), (0, more)), ((0, 0), (0, more))
        self.gram, self.inverse = np.pad(self.gram, square), np.pad(self.inverse, square)
        self.vector, self.theta = np.pad(self.vector, flat), np.pad(self.theta, flat)
        new = np.arange(self.width, width)
        self.gram[:, new, new], self.inverse[:, new, new] = self.ridge, 1 / self.ridge
        self.width = width

    def drop(self, name: str) -> None:
        """A tool and all that is known of it go."""
        row = self.index.get(name)
        if row is None:
            return
        self.names.remove(name)
        self.index = {each: place for place, each in enumerate(self.names)}
        for field in ("gram", "inverse", "vector", "theta", "counts"):
            setattr(self, field, np.delete(getattr(self, field), row, axis=0))
        self._asked = None

    def state(self) -> dict[str, Any]:
        """All of it as plain JSON: floats survive that to the last digit."""
        arrays = {name: getattr(self, name).tolist() for name in ("gram", "inverse", "vector", "theta", "counts")}
        return {"names": list(self.names), "width": self.width, "ridge": self.ridge, **arrays}

    @classmethod
    def of(cls, state: Any, ridge: float, who: str) -> Arms:
        """What `state` said, with this `ridge` as the prior. PluginError for anything else."""
        made = cls(ridge, who)
        try:
            made.names, made.width = [str(name) for name in state["names"]], int(state["width"])
            made.index = {name: row for row, name in enumerate(made.names)}
            count, width = len(made.index), made.width
            made.counts = np.array(state["counts"], dtype=np.int64).reshape(count)
            for field, shape in (("gram", (count, width, width)), ("inverse", (count, width, width)),
                                 ("vector", (count, width)), ("theta", (count, width))):  # fmt: skip
                read = np.array(state[field], dtype=np.float64).reshape(shape)
                if not np.isfinite(read).all():
                    raise ValueError(f"{field} holds numbers that are not finite")
                setattr(made, field, read)
            before = float(state.get("ridge", ridge))
            if not 0 < before < np.inf:
                raise ValueError(f"ridge is {before}")
            if before != ridge:  # the prior is in the sums: this one's instead
                made.gram += (ridge - before) * np.eye(width)
                for row in range(count):
                    made.refresh(row)
        except (KeyError, TypeError, ValueError) as error:
            raise PluginError(f"{who}: this is not the state of such a router: {error}") from None
        return made


@component
class LinearRouter(Router):
    """Base of routers that expect of tool k the reward x·θ_k, by ridge regression."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"contextual", "estimates"})

    ridge: float = option(1.0, gt=0, help="prior weight: λ of the ridge regression")

    made: Arms | None = state(None)

    @property
    def arms(self) -> Arms:
        """What is known of every tool."""
        if self.made is None:
            self.made = Arms(self.ridge, self.origin)
        return self.made

    def update(self, context: Array, tool: str, reward: float) -> None:
        (self.made or self.arms).learn(context, tool, reward)

    def forget(self, tool: str) -> None:
        self.arms.drop(tool)

    def state_dict(self) -> dict[str, Any]:
        return {"arms": self.arms.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_keys(state, {"arms"}, self.origin)
        self.made = Arms.of(state["arms"], self.ridge, self.origin)


def check_keys(state: Any, wanted: set[str], who: str) -> None:
    """PluginError unless a state has these entries."""
    if not isinstance(state, dict) or set(state) != wanted:
        got = sorted(state) if isinstance(state, dict) else type(state).__name__
        raise PluginError(f"{who}: state has {got}, expected {sorted(wanted)}")
