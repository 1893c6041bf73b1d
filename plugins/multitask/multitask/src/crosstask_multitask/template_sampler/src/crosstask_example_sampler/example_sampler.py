"""Tasks drawn by their losses."""

from __future__ import annotations

import torch

from crosstask.errors import DataError
from crosstask.options import component, option
from crosstask_multitask import History, Sampler


@component
class ExampleSampler(Sampler):
    """Draws `count` different tasks with probability proportional to their last loss to the power of `power`.

    A task whose loss is not known yet counts as much as the worst one.
    """

    count: int = option(1, ge=1, help="tasks in a step (all, if there are fewer)")
    power: float = option(1.0, ge=0, help="0: all tasks equally often")

    def sample(self, tasks: list[str], history: History, rng: torch.Generator) -> list[str]:
        if not tasks:
            raise DataError("no tasks to draw from")
        last = [history[task][-1] if history.get(task) else None for task in tasks]
        worst = max((loss for loss in last if loss is not None), default=1.0)
        weights = torch.tensor([worst if loss is None else loss for loss in last]).clamp_min(1e-6) ** self.power
        drawn = set(torch.multinomial(weights, min(self.count, len(tasks)), generator=rng).tolist())
        return [task for number, task in enumerate(tasks) if number in drawn]
