"""Tasks in the order of how much they help."""

from __future__ import annotations

from crosstask.graph import TransferGraph
from crosstask.options import component, option
from crosstask.points.curriculum import CurriculumPlanner
from crosstask.tasks import Portfolio


@component
class ExampleCurriculum(CurriculumPlanner):
    """Tasks that help the target by more than `minimum`, the one that helps most right before it.

    The contract sees to prerequisites, to the target and to the number of tasks.
    """

    minimum: float = option(0.0, ge=-1, lt=1, help="leave out tasks with a transfer coefficient up to this")

    def rank(self, portfolio: Portfolio, graph: TransferGraph, target: str, candidates: list[str]) -> list[str]:
        helpful = [task for task in candidates if graph.coefficient(task, target) > self.minimum]
        return sorted(helpful, key=lambda task: (graph.coefficient(task, target), task))
