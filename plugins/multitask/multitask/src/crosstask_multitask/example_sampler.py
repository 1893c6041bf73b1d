import torch

from crosstask import component, option
from crosstask_multitask import Sampler


@component
class Worst(Sampler):
    """The tasks whose last loss is largest; those that were never trained come first."""

    size: int = option(1, ge=1, help="tasks in a step")

    def sample(self, tasks, history, rng):
        def last(task):
            return history[task][-1] if history[task] else float("inf")

        chosen = sorted(tasks, key=last, reverse=True)[: self.size]
        return [task for task in tasks if task in chosen]


assert Worst(size=2).sample(["a", "b", "c"], {"a": [0.1], "b": [0.9], "c": []}, torch.Generator()) == ["b", "c"]
