"""Linear Thompson sampling."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from crosstask.options import component, option, state
from crosstask_routing.contract import Array, Decision
from crosstask_routing.drawing import continued, generator_of, state_of
from crosstask_routing.linear import Arms, LinearRouter, check_keys

DRAWS = 256


@component
class LinearThompson(LinearRouter):
    """The tool that is best in a draw from what is believed: θ_k from N(θ̂_k, spread² A_k⁻¹), independently.

    Only x·θ_k matters for a decision, a normal number of mean x·θ̂_k and deviation spread √(x' A_k⁻¹ x): it is what is
    drawn. A tool is explored as often as it is believed to be the best, so exploration shrinks by itself. The
    probability that a decision explores is estimated from 256 draws that are the same each time.

    Source: Agrawal, Goyal 2013, *Thompson Sampling for Contextual Bandits with Linear Payoffs*, ICML, algorithm 1, with
    a model for each tool.
    """

    spread: float = option(0.3, ge=0, help="standard deviation of what is believed of a unit reward; 0: greedy")

    rng: np.random.Generator | None = state(None)

    def choose(self, context: Array, tools: Sequence[str]) -> Decision:
        if self.rng is None:
            self.rng = generator_of(self)
        x, theta, inverse = self.arms.look(context, tools)
        estimates = theta @ x
        widths = self.spread * np.sqrt(np.abs((inverse @ x) @ x))
        greedy = int(estimates.argmax())
        drawn = estimates + widths * self.rng.standard_normal(len(estimates))
        others = (estimates + widths * _draws(len(estimates))).argmax(axis=1) != greedy
        return Decision(tools[int(drawn.argmax())], float(others.mean()), estimates)

    def state_dict(self) -> dict[str, Any]:
        return {"arms": self.arms.state(), "rng": state_of(self.rng or generator_of(self))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_keys(state, {"arms", "rng"}, self.origin)
        made, rng = Arms.of(state["arms"], self.ridge, self.origin), continued(state["rng"], self.origin)
        self.made, self.rng = made, rng


@functools.cache
def _draws(count: int) -> Array:
    return np.random.default_rng(0).standard_normal((DRAWS, count))
