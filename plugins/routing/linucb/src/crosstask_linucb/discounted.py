"""Linear upper confidence bounds with forgetting, for tools that change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from crosstask.errors import PluginError
from crosstask.options import component, option, state
from crosstask_routing.contexts import as_context, check_reward, check_tools
from crosstask_routing.contract import Array, Decision, Router
from crosstask_routing.linear import check_keys

_ARRAYS = ("gram", "squared", "vector", "values", "vectors", "turned", "spread")


class _Discounted:
    """Sums of every tool, discounted at each update of any: S = Σ γ^(t-s) x x', S² = Σ γ^(2(t-s)) x x', and
    b = Σ γ^(t-s) r x.

    They are kept as they were at the tool's own last update, with the factor `age` that has come since; S is kept by
    its eigenvectors Q and eigenvalues, in which every later factor is a number. So a decision, too, is exact: nothing
    of the prior, ridge I, is discounted away.
    """

    def __init__(self, ridge: float, gamma: float, who: str) -> None:
        self.ridge, self.gamma, self.who = ridge, gamma, who
        self.names: list[str] = []
        self.width = 0
        self.ages = np.zeros(0)
        for name in _ARRAYS:
            setattr(self, name, np.zeros((0, 0) if name in ("vector", "values", "turned") else (0, 0, 0)))
        self._asked: tuple[str, ...] | None = None
        self._rows: Any = None
        self._aged: tuple[Array, Array, Array] | None = None

    gram: Array
    squared: Array
    vector: Array
    values: Array
    """Eigenvalues of S [K, d]."""
    vectors: Array
    """Q' [K, d, d]: eigenvectors of S as rows."""
    turned: Array
    """Q' b [K, d]."""
    spread: Array
    """Q' S² Q [K, d, d]."""

    def look(self, context: Any, tools: Sequence[str]) -> tuple[Array, Array]:
        """(expected rewards [K], widths [K] of the bounds for alpha = 1)."""
        x = as_context(context, self.width, self.who)
        if len(x) > self.width:
            self.grow(len(x))
        if tools != self._asked:
            asked = check_tools(tools, self.who)
            for name in asked:
                if name not in self.names:
                    self.add(name)
            self._asked = asked
            self._rows = None if list(asked) == self.names else np.array([self.names.index(name) for name in asked])
        shrunk, turned, spread = self._aged or self._age()
        found = self.vectors @ x
        found *= shrunk  # Q' V⁻¹ x
        means = np.einsum("kd,kd->k", found, turned)
        squares = np.einsum("kd,kd->k", (spread @ found[:, :, None])[:, :, 0], found)
        if self._rows is not None:
            means, squares = means[self._rows], squares[self._rows]
        return means, np.sqrt(np.abs(squares))

    def _age(self) -> tuple[Array, Array, Array]:
        """(1/(age Λ + ridge), age Q' b, age² Q' S² Q + ridge I): what decisions need, until the next update."""
        age = self.ages[:, None]
        spread = (age * age)[:, :, None] * self.spread
        spread.reshape(len(spread), -1)[:, :: self.width + 1] += self.ridge
        self._aged = 1.0 / (age * self.values + self.ridge), age * self.turned, spread
        return self._aged

    def learn(self, context: Any, tool: str, reward: float) -> None:
        """One observation; all the others count less by γ."""
        x = as_context(context, self.width, self.who)
        check_reward(reward, self.who)
        if tool not in self.names:
            check_tools((tool,), self.who)
            self.add(tool)
        if len(x) > self.width:
            self.grow(len(x))
        row = self.names.index(tool)
        self.ages *= self.gamma
        age, outer = float(self.ages[row]), x[:, None] * x
        for sums, factor, new in ((self.gram, age, outer), (self.squared, age * age, outer),
                                  (self.vector, age, float(reward) * x)):  # fmt: skip
            own = sums[row]
            own *= factor
            own += new
        self.ages[row] = 1.0
        self._turn(row)

    def _turn(self, row: int) -> None:
        values, vectors = np.linalg.eigh(self.gram[row])
        self.values[row], self.vectors[row] = values, vectors.T
        self.turned[row] = vectors.T @ self.vector[row]
        self.spread[row] = vectors.T @ self.squared[row] @ vectors
        self._age()

    def add(self, name: str) -> None:
        self.names.append(name)
        for field in _ARRAYS:
            shape = (1, *getattr(self, field).shape[1:])
            new = np.eye(self.width)[None] if field == "vectors" else np.zeros(shape)
            setattr(self, field, np.concatenate([getattr(self, field), new]))
        self.ages = np.append(self.ages, 1.0)
        self._asked = self._aged = None

    def grow(self, width: int) -> None:
        more = width - self.width
        for field in _ARRAYS:
            old = getattr(self, field)
            setattr(self, field, np.pad(old, ((0, 0), *((0, more),) * (old.ndim - 1))))
        new = np.arange(self.width, width)
        self.vectors[:, new, new] = 1.0
        self.width, self._aged = width, None

    def drop(self, name: str) -> None:
        if name not in self.names:
            return
        row = self.names.index(name)
        del self.names[row]
        for field in (*_ARRAYS, "ages"):
            setattr(self, field, np.delete(getattr(self, field), row, axis=0))
        self._asked = self._aged = None

    def state(self) -> dict[str, Any]:
        arrays = {field: getattr(self, field).tolist() for field in (*_ARRAYS, "ages")}
        return {"names": list(self.names), "width": self.width, **arrays}

    def load(self, state: Any) -> None:
        try:
            self.names, self.width = [str(name) for name in state["names"]], int(state["width"])
            count, width = len(set(self.names)), self.width
            self.ages = np.array(state["ages"], dtype=np.float64).reshape(count)
            for field in _ARRAYS:
                ndim = getattr(self, field).ndim
                read = np.array(state[field], dtype=np.float64).reshape((count, *(width,) * (ndim - 1)))
                if not np.isfinite(read).all():
                    raise ValueError(f"{field} holds numbers that are not finite")
                setattr(self, field, read)
        except (KeyError, TypeError, ValueError) as error:
            raise PluginError(f"{self.who}: this is not the state of such a router: {error}") from None


@component
class DiscountedLinUCB(Router):
    """LinUCB in which an observation that is n updates old counts γⁿ: it follows tools that change.

    With V_k = Σ γ^(t-s) x x' + ridge I, Ṽ_k = Σ γ^(2(t-s)) x x' + ridge I and θ_k = V_k⁻¹ Σ γ^(t-s) r x the bound is
    x·θ_k + alpha √(x' V_k⁻¹ Ṽ_k V_k⁻¹ x). A tool that is not used is forgotten, too, and so tried again: exploration
    shrinks to a level that γ sets, and no further. With γ = 1 it is LinUCB. It remembers about 1/(1 - γ) updates of all
    tools together; where nothing changes it loses more than LinUCB does.

    Source: Russac, Vernade, Cappé 2019, *Weighted Linear Bandits for Non-Stationary Environments*, NeurIPS,
    algorithm 1 (D-LinUCB), here with a model for each tool.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"contextual", "estimates", "forgets"})

    alpha: float = option(0.8, ge=0, help="width of the bound in standard deviations of a unit reward; 0: greedy")
    ridge: float = option(1.0, gt=0, help="prior weight: λ of the ridge regression")
    gamma: float = option(0.998, gt=0, le=1, help="what an observation still counts one update later")

    made: _Discounted | None = state(None)

    @property
    def sums(self) -> _Discounted:
        """What is known of every tool."""
        if self.made is None:
            self.made = _Discounted(self.ridge, self.gamma, self.origin)
        return self.made

    def choose(self, context: Array, tools: Sequence[str]) -> Decision:
        estimates, widths = self.sums.look(context, tools)
        bounds = estimates + self.alpha * widths
        best = int(bounds.argmax())
        return Decision(tools[best], float(best != estimates.argmax()), estimates)

    def update(self, context: Array, tool: str, reward: float) -> None:
        self.sums.learn(context, tool, reward)

    def forget(self, tool: str) -> None:
        self.sums.drop(tool)

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_keys(state, {"sums"}, self.origin)
        made = _Discounted(self.ridge, self.gamma, self.origin)
        made.load(state["sums"])
        self.made = made
