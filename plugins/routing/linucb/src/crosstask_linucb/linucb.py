"""Linear upper confidence bounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crosstask.options import component, option
from crosstask_routing.contract import Array, Decision
from crosstask_routing.linear import LinearRouter


@component
class LinUCB(LinearRouter):
    """The tool with the largest upper bound x·θ_k + alpha √(x' A_k⁻¹ x) of its expected reward.

    A_k = ridge I + Σ x x' over the contexts in which tool k was used, θ_k = A_k⁻¹ Σ r x; the inverses are kept by
    rank-one updates. The bound's width falls as 1/√n with the uses of a tool in like contexts: exploration shrinks by
    itself, and is directed at what is not known. Of equal bounds the first tool's counts. The paper's alpha for a
    probability of 1 - δ is 1 + √(ln(2/δ)/2), for rewards in [0, 1]: from 1 on. Less is a gamble: often better, and at
    times it never tries the best tool again.

    Source: Li, Chu, Langford, Schapire 2010, *A Contextual-Bandit Approach to Personalized News Article
    Recommendation*, WWW, algorithm 1 (disjoint linear models).
    """

    alpha: float = option(1.0, ge=0, help="width of the bound in standard deviations of a unit reward; 0: greedy")

    def choose(self, context: Array, tools: Sequence[str]) -> Decision:
        x, theta, inverse = (self.made or self.arms).look(context, tools)
        estimates = theta @ x
        bounds = estimates + self.alpha * np.sqrt(np.abs((inverse @ x) @ x))
        best = int(bounds.argmax())
        return Decision(tools[best], float(best != estimates.argmax()), estimates)
