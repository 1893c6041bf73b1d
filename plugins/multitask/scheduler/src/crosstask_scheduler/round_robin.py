"""Tasks in turn."""

from __future__ import annotations

import torch

from crosstask.errors import DataError
from crosstask.options import component, option, state
from crosstask_multitask.sampler import History, Sampler


@component
class RoundRobin(Sampler):
    """The next `tasks_per_step` tasks in their order, starting again after the last one. Draws nothing."""

    tasks_per_step: int = option(1, ge=1, help="how many different tasks take part in a step")

    position: int = state(0)

    def sample(self, tasks: list[str], history: History, rng: torch.Generator) -> list[str]:
        if not tasks:
            raise DataError("no tasks to take in turn")
        count = min(self.tasks_per_step, len(tasks))
        chosen = {(self.position + offset) % len(tasks) for offset in range(count)}
        self.position = (self.position + count) % len(tasks)
        return [task for number, task in enumerate(tasks) if number in chosen]
