"""Curriculum strategies made of curriculum strategies. Of each part its `rank` is used."""

from __future__ import annotations

import itertools

from crosstask.errors import CrosstaskError, DataError
from crosstask.graph import TransferGraph
from crosstask.options import component, state
from crosstask.parts import Part, part
from crosstask.points.curriculum import CurriculumPlanner
from crosstask.records import Curriculum, CurriculumStep
from crosstask.tasks import Portfolio
from crosstask_composition.checks import need_parts


@component
class Fallback(CurriculumPlanner):
    """The ranking of the first planner that finds a task worth learning; that planner also chooses the next tasks.

    A planner that refuses (a graph without edges, say) is passed over; DataError if all of them refuse. If none refuses
    and none finds a task, nothing is worth learning.
    """

    parts: tuple[Part, ...] = part("curriculum", required=True, help="the planners, best first")
    chosen: int = state(0)

    def __attrs_post_init__(self) -> None:
        need_parts(self, self.parts)

    def rank(self, portfolio: Portfolio, graph: TransferGraph, target: str, candidates: list[str]) -> list[str]:
        refused = []
        for number, planner in enumerate(self.made_of("parts")):
            try:
                order: list[str] = planner.rank(portfolio, graph, target, list(candidates))
            except CrosstaskError as error:
                refused.append(f"{planner.origin}: {error}")
                continue
            if order:
                self.chosen = number
                return order
        if len(refused) == len(self.parts):
            raise DataError("every planner refused: " + "; ".join(refused))
        return []

    def next_task(self, curriculum: Curriculum, history: list[CurriculumStep]) -> str | None:
        answer: str | None = self.made_of("parts")[self.chosen].next_task(curriculum, history)
        return answer


@component
class Interleave(CurriculumPlanner):
    """The rankings of several planners, merged: in turn, each planner's best task (its last) that is not taken yet.

    The first planner's best comes last in the curriculum, nearest the target, so that what is cut off was chosen last.
    """

    parts: tuple[Part, ...] = part("curriculum", required=True, help="the planners, the one that counts most first")

    def __attrs_post_init__(self) -> None:
        need_parts(self, self.parts)

    def rank(self, portfolio: Portfolio, graph: TransferGraph, target: str, candidates: list[str]) -> list[str]:
        ranked = [p.rank(portfolio, graph, target, list(candidates))[::-1] for p in self.made_of("parts")]
        turns = itertools.chain.from_iterable(itertools.zip_longest(*ranked))
        return list(dict.fromkeys(task_id for task_id in turns if task_id is not None))[::-1]
