"""The `uncertainty_driven` curriculum."""

from __future__ import annotations

from crosstask.graph import TransferGraph
from crosstask.options import component, option
from crosstask.points.curriculum import CurriculumPlanner
from crosstask.tasks import Portfolio
from crosstask_orders.potential import potentials


@component
class UncertaintyDriven(CurriculumPlanner):
    """Tasks in the order of what they might give to the target: coefficient + `exploration` * standard error.

    That is optimism in the face of uncertainty (upper confidence bounds, Auer 2002): a task of which little
    is known is tried, one that is known to help little is not, and running the curriculum shows what it is
    worth. The most promising comes last. Without an edge, or with one that states no error, the error is
    `unknown`. Tasks whose bound is `minimum` or less are left out.
    """

    exploration: float = option(1.0, ge=0, help="how many standard errors to add")
    unknown: float = option(0.5, ge=0, help="standard error of what nothing is known of")
    minimum: float = option(0.0, ge=-1, lt=1, help="leave out tasks whose bound is no more than this")

    def rank(self, portfolio: Portfolio, graph: TransferGraph, target: str, candidates: list[str]) -> list[str]:
        bounds = potentials(graph, target, candidates)
        for t in candidates:
            edge = graph.edge(t, target)
            error = self.unknown if edge is None or edge.uncertainty is None else edge.uncertainty
            bounds[t] += self.exploration * error
        return sorted((t for t in candidates if bounds[t] > self.minimum), key=lambda t: (bounds[t], t))
