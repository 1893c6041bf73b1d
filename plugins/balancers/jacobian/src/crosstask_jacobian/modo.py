"""MGDA's weights, one small step at a time."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from crosstask import component, option, state
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.named import Kept, names_of, shares_of, with_shares
from crosstask.learning.gradients.solvers import gram_array, project_to_simplex, to_tensor
from crosstask.points.balancer import Balancer


@component
class MoDo(Balancer):
    """Convex weights w that take one projected gradient step per update toward MGDA's: w ← P(w - gamma (G w + rho w)).

    P is the projection onto the simplex; w starts uniform and is state, by task (in a step with only some of the tasks
    the simplex is that of these, and they divide among them the weight that they had together). A small `gamma` stays
    near equal weights, which trades avoiding conflict for generalisation, the paper's point. The paper takes G from two
    independent batches; here both are the batch at hand, which makes its diagonal too large by the noise.

    Source: Chen, Fernando, Ying, Chen 2023, *Three-Way Trade-Off in Multi-Objective Learning*, arXiv:2305.20057,
    algorithm 1 (with rho as in the version of JMLR 2024, equation 2.9).
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "convex_weights"})
    results_version: ClassVar[int] = 2

    gamma: float = option(0.1, help="step size of the weights", gt=0)
    rho: float = option(0.1, help="pull of the weights toward uniform", ge=0)

    weights: Kept = state(factory=dict)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        gramian = gram_array(gradients)
        names = names_of(self.origin, gradients, self.weights)
        weights = shares_of(self.weights, names)
        weights = project_to_simplex(weights - self.gamma * (gramian @ weights + self.rho * weights))
        self.weights = with_shares(self.weights, names, weights)
        return to_tensor(weights, losses)
