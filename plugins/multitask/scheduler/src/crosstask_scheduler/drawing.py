"""Drawing tasks with probabilities that are renewed now and then."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from crosstask.errors import DataError, RunError
from crosstask.options import component, option, state
from crosstask_multitask.sampler import History, Sampler


@component
class Adaptive(Sampler):
    """Base of the samplers that draw by how tasks are doing: p_t = softmax(score_t / temperature).

    Tasks of which nothing is known yet come first (with others, at random, where a step has more). Probabilities are
    renewed every `update_frequency` steps, from what is known of each task from (at most) the last so many of its
    steps.
    """

    results_version: ClassVar[int] = 2

    temperature: float = option(1.0, gt=0, help="high: nearly uniform; low: nearly always the task with the top score")
    update_frequency: int = option(100, ge=1, help="steps between two looks at the losses")
    tasks_per_step: int = option(1, ge=1, help="how many different tasks take part in a step")
    least: float = option(0.0, ge=0, lt=1, help="no task is drawn with less than this part of an even share")

    step: int = state(0)
    probabilities: dict[str, float] | None = state(None)

    def sample(self, tasks: list[str], history: History, rng: torch.Generator) -> list[str]:
        if waiting := self._waiting(tasks, history):
            return self._first(tasks, waiting, rng)
        self.probabilities = known = self.chances(tasks, history)
        self.step += 1
        return draw(tasks, [known[task] for task in tasks], self.tasks_per_step, rng)

    def chances(self, tasks: list[str], history: History) -> dict[str, float]:
        if waiting := self._waiting(tasks, history):
            return {task: float(task in waiting) / len(waiting) for task in tasks}
        known = self.probabilities
        if known is not None and set(known) == set(tasks) and self.step % self.update_frequency:
            return known
        scores = [self.score(task, history) for task in tasks]
        if wrong := [task for task, score in zip(tasks, scores, strict=True) if not math.isfinite(score)]:
            raise RunError(f"{self.origin}: what is known of task {wrong[0]!r} is not finite; it cannot be drawn by it")
        weights = torch.softmax(torch.tensor(scores, dtype=torch.float64) / self.temperature, 0)
        return dict(zip(tasks, raised(weights, self.least).tolist(), strict=True))

    def _first(self, tasks: list[str], waiting: list[str], rng: torch.Generator) -> list[str]:
        """Of those that wait as many as a step has; where there are fewer, some of the others to make up the number."""
        chosen = draw(waiting, [1.0] * len(waiting), self.tasks_per_step, rng)
        others = [task for task in tasks if task not in waiting]
        if others and len(chosen) < self.tasks_per_step:
            chosen += draw(others, [1.0] * len(others), self.tasks_per_step - len(chosen), rng)
        return [task for task in tasks if task in chosen]

    def _waiting(self, tasks: list[str], history: History) -> list[str]:
        """Those of which nothing is known yet."""
        return [task for task in tasks if not self.known(task, history)]

    def known(self, task: str, history: History) -> list[float]:
        """What a task is judged by, in order; empty while nothing is known."""
        return history.get(task, [])

    def recent(self, values: list[float]) -> float:
        """Mean of the latest values."""
        latest = values[-self.update_frequency :]
        return sum(latest) / len(latest)

    @abstractmethod
    def score(self, task: str, history: History) -> float:
        """How much a task needs to be trained: higher, more often."""


def raised(weights: Tensor, least: float) -> Tensor:
    """Probabilities [T] of which none is below `least` / T: the others give what is missing, in proportion."""
    floor = least / max(len(weights), 1)
    while bool((low := weights < floor - 1e-12).any()):
        low |= weights <= floor
        rest = weights[~low]
        weights = torch.full_like(weights, floor)
        weights[~low] = rest * ((1 - floor * int(low.sum())) / rest.sum())
    return weights


def draw(tasks: list[str], weights: list[float], count: int, rng: torch.Generator) -> list[str]:
    """`count` different tasks (all, if there are fewer), in their order, with probability as their weights."""
    if not tasks:
        raise DataError("no tasks to draw from")
    # A task whose probability has vanished must still be there to draw when all others are taken.
    chances = torch.tensor(weights, dtype=torch.float64).clamp_min(1e-12)
    chosen = torch.multinomial(chances, min(count, len(tasks)), generator=rng).tolist()
    return [tasks[number] for number in sorted(chosen)]
