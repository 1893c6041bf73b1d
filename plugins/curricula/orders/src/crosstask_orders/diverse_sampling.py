"""The `diverse_sampling` curriculum."""

from __future__ import annotations

from crosstask.graph import TransferGraph
from crosstask.options import component, option
from crosstask.points.curriculum import CurriculumPlanner
from crosstask.tasks import Portfolio
from crosstask_orders.potential import potentials


@component
class DiverseSampling(CurriculumPlanner):
    """Tasks that help the target and differ from one another.

    Chosen greedily by maximal marginal relevance (Carbonell and Goldstein 1998, section 2): the next is the
    one with the largest (1 - diversity) * potential - diversity * (largest similarity to a task already
    chosen), where the potential is what it gives to the target and the similarity of two tasks the mean of
    their coefficients both ways. The first choice comes last in the curriculum, nearest the target, so that
    what is cut off was chosen last.
    """

    diversity: float = option(0.5, ge=0, le=1, help="0: only the potential counts, 1: only the difference")
    minimum: float = option(0.0, ge=-1, lt=1, help="leave out tasks that give the target no more than this")

    def rank(self, portfolio: Portfolio, graph: TransferGraph, target: str, candidates: list[str]) -> list[str]:
        potential = {t: p for t, p in potentials(graph, target, candidates).items() if p > self.minimum}
        nearest = dict.fromkeys(potential, 0.0)  # similarity to the nearest task chosen so far
        chosen: list[str] = []
        while nearest:
            best = min(nearest, key=lambda t: (self.diversity * nearest[t] - (1 - self.diversity) * potential[t], t))
            chosen.append(best)
            del nearest[best]
            for t in nearest:
                similarity = (graph.coefficient(t, best) + graph.coefficient(best, t)) / 2
                nearest[t] = similarity if len(chosen) == 1 else max(nearest[t], similarity)
        return chosen[::-1]
