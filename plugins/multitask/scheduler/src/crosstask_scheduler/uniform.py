"""Every task as often as any other, at random."""

from __future__ import annotations

import torch

from crosstask.options import component, option
from crosstask_multitask.sampler import History, Sampler
from crosstask_scheduler.drawing import draw


@component
class Uniform(Sampler):
    """Draws `tasks_per_step` different tasks, each with the same probability."""

    tasks_per_step: int = option(1, ge=1, help="how many different tasks take part in a step")

    def sample(self, tasks: list[str], history: History, rng: torch.Generator) -> list[str]:
        return draw(tasks, [1.0] * len(tasks), self.tasks_per_step, rng)
