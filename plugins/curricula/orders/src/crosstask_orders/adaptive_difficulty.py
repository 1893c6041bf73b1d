"""The `adaptive_difficulty` curriculum."""

from __future__ import annotations

import math

from crosstask.graph import TransferGraph
from crosstask.learning.metrics import relative_gain
from crosstask.options import component, option
from crosstask.points.curriculum import CurriculumPlanner
from crosstask.records import Curriculum, CurriculumStep
from crosstask.tasks import Portfolio
from crosstask_orders.potential import difficulty, promising


@component
class AdaptiveDifficulty(CurriculumPlanner):
    """Starts as `easy_to_hard`; then each next task depends on what the steps before it gained.

    - The target gained `progress` or more by the last step: the learner is ahead, so the next easiest task is skipped.
    - It lost more than `setback`: the task was too far off, so an easier one comes next, if one is left.
    - Otherwise the next harder one.
    - After `patience` such losses in a row: straight to the target, by way of what it needs only.

    In the spirit of teacher-student curricula (Matiisen et al. 2020), with the target's own score on its validation
    data as the signal, learned after the step against before it (where steps are not judged so, without a gate, with
    the step's gain over training it from scratch): differences of scores between 0 and 1; of other metrics (errors),
    as shares of the larger score. A task is offered only when its prerequisites are done, each at most once, and the
    target always comes.
    """

    minimum: float = option(0.0, ge=-1, lt=1, help="leave out tasks with a transfer coefficient up to this")
    progress: float = option(0.05, ge=0, help="gain from which a step counts as easy")
    setback: float = option(0.01, ge=0, help="a loss up to this is taken for noise")
    patience: int = option(2, ge=1, help="so many losses in a row end the preparation")

    def rank(self, portfolio: Portfolio, graph: TransferGraph, target: str, candidates: list[str]) -> list[str]:
        chosen = promising(graph, target, candidates, self.minimum)
        return sorted(chosen, key=lambda t: difficulty(portfolio, t))

    def next_task(self, curriculum: Curriculum, history: list[CurriculumStep]) -> str | None:
        done = {step.task_id for step in history}
        if curriculum.target in done:
            return None

        def level(task_id: str) -> tuple[float, str]:
            return curriculum.task_difficulties.get(task_id, 0.5), task_id

        ladder = sorted(curriculum.task_sequence[:-1], key=level)
        if self._stuck(history):
            required = _required(curriculum, curriculum.target)
            ladder = [t for t in ladder if t in required]
        left = [t for t in ladder if t not in done]
        ready = [t for t in left if not _required(curriculum, t) - done]
        if not ready:
            return curriculum.target
        if not history:
            return ready[0]
        last = history[-1]
        harder = [t for t in ready if level(t) > level(last.task_id)]
        easier = [t for t in ready if t not in harder]
        if gain_of(last) < -self.setback and easier:
            return easier[-1]
        if not harder:  # skipped before, or waiting for a prerequisite: now or never
            return self._finally(curriculum, easier)
        skip = gain_of(last) >= self.progress and len(harder) > 1
        return harder[1 if skip else 0]

    def _finally(self, curriculum: Curriculum, easier: list[str]) -> str:
        """What to do at the top of the ladder: the target, unless it still needs one of the easier tasks."""
        required = _required(curriculum, curriculum.target)
        return next((t for t in easier if t in required), curriculum.target)

    def _stuck(self, history: list[CurriculumStep]) -> bool:
        recent = history[-self.patience :]
        return len(recent) == self.patience and all(gain_of(s) < -self.setback for s in recent)


def gain_of(step: CurriculumStep) -> float:
    """What the target gained by a step, or where that was not judged, the step's task over scratch: the difference
    where both scores lie between 0 and 1, else as a share of the larger of the two.
    """
    scores, gain = (step.score.mean, step.scratch_score.mean), step.gain.mean
    if step.progress is not None and step.target_score is not None:
        reached = max(each.mean for each in (step.target_score, step.alone_score) if each is not None)
        scores, gain = (reached, reached - step.progress.mean), step.progress.mean
    if all(0 <= score <= 1 for score in scores):
        return gain
    return relative_gain(*scores, best=math.inf)


def _required(curriculum: Curriculum, task_id: str) -> set[str]:
    """All that a task needs, directly or through others, within the curriculum."""
    found: set[str] = set()
    stack = list(curriculum.prerequisites.get(task_id, ()))
    while stack:
        needed = stack.pop()
        if needed not in found and needed in curriculum.task_sequence:
            found.add(needed)
            stack += curriculum.prerequisites.get(needed, ())
    return found
