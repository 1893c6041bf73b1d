"""Random exploration that shrinks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crosstask.options import component, option, state
from crosstask_routing.contract import Array, Decision
from crosstask_routing.drawing import continued, generator_of, state_of
from crosstask_routing.linear import Arms, LinearRouter, check_keys


@component
class EpsilonGreedy(LinearRouter):
    """The tool of the largest linear estimate, but with probability ε = min(1, explore K / n) any of the K tools, each
    as likely, with n the updates so far and one.

    The sum of ε over n steps grows as ln n. Unlike a bound it explores tools that are known to be bad.

    Source: Auer, Cesa-Bianchi, Fischer 2002, *Finite-time Analysis of the Multiarmed Bandit Problem*, Machine Learning
    47, figure 3 (ε_n-greedy; `explore` is their c/d²), here with linear estimates.
    """

    explore: float = option(5.0, ge=0, help="how much is explored: about that many uses of each tool at first")

    rng: np.random.Generator | None = state(None)

    def choose(self, context: Array, tools: Sequence[str]) -> Decision:
        if self.rng is None:
            self.rng = generator_of(self)
        x, theta, _ = self.arms.look(context, tools)
        estimates, count = theta @ x, len(tools)
        greedy = int(estimates.argmax())
        chance = min(1.0, self.explore * count / (int(self.arms.counts.sum()) + 1))
        taken = int(self.rng.integers(count)) if self.rng.random() < chance else greedy
        return Decision(tools[taken], chance * (count - 1) / count, estimates)

    def state_dict(self) -> dict[str, Any]:
        return {"arms": self.arms.state(), "rng": state_of(self.rng or generator_of(self))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_keys(state, {"arms", "rng"}, self.origin)
        made, rng = Arms.of(state["arms"], self.ridge, self.origin), continued(state["rng"], self.origin)
        self.made, self.rng = made, rng
