"""Fair allocation of the tasks' gains."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from crosstask import component, option
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.solvers import UnitGramian, proportional_weights, to_tensor
from crosstask.points.balancer import Balancer


@component
class FairGrad(Balancer):
    """Positive weights with G w = w^(-1/alpha), G the Gram matrix: the alpha-fair allocation of the tasks' gains.

    `alpha` = 1 is proportional fairness (Nash-MTL without its scale), larger values favour the worst task. Solved
    exactly by Newton's method. The length of the update does not scale with the gradients: like
    |g|^((alpha-1)/(alpha+1)). Every task gains. A zero gradient gets weight 0.

    Source: Ban & Ji 2024, *Fair Resource Allocation in Multi-Task Learning*, arXiv:2402.15638, equation 4, algorithm 1.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"permutation_invariant", "non_conflicting"})

    alpha: float = option(2.0, help="kind of fairness: 1 proportional, 2 minimum potential delay, large max-min", gt=0)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        unit = UnitGramian.of(gradients)
        power = 1 / self.alpha
        # w = z / norm turns G w = w^-power into C z = norm^(power - 1) z^-power
        found = proportional_weights(unit.cosines, unit.norms ** (power - 1), power, None)
        return to_tensor(unit.weights(found), losses)
