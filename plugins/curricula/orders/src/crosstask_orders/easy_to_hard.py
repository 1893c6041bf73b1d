"""The `easy_to_hard` curriculum."""

from __future__ import annotations

from crosstask.graph import TransferGraph
from crosstask.options import component, option
from crosstask.points.curriculum import CurriculumPlanner
from crosstask.tasks import Portfolio
from crosstask_orders.potential import difficulty, promising


@component
class EasyToHard(CurriculumPlanner):
    """Tasks in the order of their complexity (Bengio et al. 2009). Where not all fit, the hardest are kept.

    Tasks harder than the target are left out, since it comes last, and so are those whose transfer to it the
    graph puts at `minimum` or below. Prerequisites come in whatever their complexity.
    """

    minimum: float = option(0.0, ge=-1, lt=1, help="leave out tasks with a transfer coefficient up to this")
    harder: bool = option(False, help="keep tasks that are harder than the target")

    def rank(self, portfolio: Portfolio, graph: TransferGraph, target: str, candidates: list[str]) -> list[str]:
        limit = 1.0 if self.harder else portfolio[target].descriptor.complexity
        chosen = promising(graph, target, candidates, self.minimum)
        return sorted(
            (t for t in chosen if portfolio[t].descriptor.complexity <= limit), key=lambda t: difficulty(portfolio, t)
        )
