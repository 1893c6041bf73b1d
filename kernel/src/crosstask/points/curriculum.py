"""Curriculum strategies: in what order to learn tasks on the way to a target."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import networkx as nx

from crosstask.components import Component, hook
from crosstask.errors import DataError
from crosstask.graph import TransferGraph
from crosstask.records import Curriculum, CurriculumStep
from crosstask.tasks import Portfolio


class CurriculumPlanner(Component):
    """Write `rank`; `plan` does the rest: prerequisites before what needs them, the target last, at most `max_tasks`.

    Override `next_task` to react to the measured progress of the learner.
    """

    point: ClassVar[str] = "curriculum"

    @abstractmethod
    def rank(self, portfolio: Portfolio, graph: TransferGraph, target: str, candidates: list[str]) -> list[str]:
        """The candidates worth learning, in the order in which to learn them; leave out what does not help.

        `candidates` are the tasks other than the target, without those from which the graph knows that no transfer into
        it is possible (`TransferGraph.impossible`). Where more are returned than fit, the last ones (nearest the
        target) are kept.
        """

    @hook(first=True, returns=Curriculum)
    def plan(self, portfolio: Portfolio, graph: TransferGraph, target: str, max_tasks: int) -> Curriculum:
        """A curriculum for `target` of at most `max_tasks` tasks, the target among them."""
        portfolio.check()
        goal = portfolio[target]
        if target not in portfolio:
            raise DataError(f"target {target!r} is held back as unseen; a curriculum needs a task that may be learned")
        needs = portfolio.prerequisite_graph()
        required = nx.ancestors(needs, target)
        if len(required) + 1 > max_tasks:
            raise DataError(
                f"{target!r} needs {len(required)} prerequisites ({', '.join(sorted(required))}): "
                f"max_tasks must be at least {len(required) + 1}, got {max_tasks}"
            )
        cannot = graph.impossible
        order = self.rank(
            portfolio, graph, target, [t for t in portfolio.ids if t != target and (t, target) not in cannot]
        )
        place = {task_id: number for number, task_id in enumerate(order)}
        chosen = set(required)
        for task_id in reversed(order):  # nearest the target first; each brings what it needs itself
            group = ({task_id} | nx.ancestors(needs, task_id)) - {target}
            if target not in nx.ancestors(needs, task_id) and len(chosen | group) + 1 <= max_tasks:
                chosen |= group
        allowed = needs.subgraph(chosen)
        sequence = list(nx.lexicographical_topological_sort(allowed, key=lambda t: (place.get(t, -1), t)))
        path = (*sequence, target)
        return Curriculum(
            target=goal.task_id,
            task_sequence=path,
            strategy=self.origin,
            task_difficulties={t: portfolio[t].descriptor.complexity for t in path},
            prerequisites={t: p for t in path if (p := portfolio[t].descriptor.prerequisites)},
            contributions={t: max(0.0, graph.coefficient(t, target)) for t in sequence},
            seed=self.context.seed,
            options=self.options(),
        )

    @hook(first=True)
    def next_task(self, curriculum: Curriculum, history: list[CurriculumStep]) -> str | None:
        """The task to train next, given the steps finished so far; None when the curriculum is done."""
        done = {step.task_id for step in history}
        return next((t for t in curriculum.task_sequence if t not in done), None)
