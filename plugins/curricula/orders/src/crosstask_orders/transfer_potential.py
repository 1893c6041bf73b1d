"""The `transfer_potential` curriculum."""

from __future__ import annotations

from crosstask.graph import TransferGraph
from crosstask.options import component, option
from crosstask.points.curriculum import CurriculumPlanner
from crosstask.tasks import Portfolio
from crosstask_orders.potential import potentials


@component
class TransferPotential(CurriculumPlanner):
    """Tasks in the order of what they give to the target, the best one last, nearest to it.

    What a task gives is the coefficient of its edge to the target, or without one the best product of
    coefficients along a path. Tasks that give `minimum` or less are left out.
    """

    minimum: float = option(0.0, ge=-1, lt=1, help="leave out tasks that give no more than this")

    def rank(self, portfolio: Portfolio, graph: TransferGraph, target: str, candidates: list[str]) -> list[str]:
        potential = potentials(graph, target, candidates)
        return sorted((t for t in candidates if potential[t] > self.minimum), key=lambda t: (potential[t], t))
