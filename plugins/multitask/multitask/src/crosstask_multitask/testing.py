"""The smallest components that do all that the two contracts say, and what the tests of the family share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from crosstask.errors import DataError, nearest
from crosstask.learning.modules import forward, seeded
from crosstask.manifest import Extension, Plugin
from crosstask.options import component
from crosstask.tasks import Task
from crosstask_multitask.heads import features_of, head_for
from crosstask_multitask.plugin import PLUGIN
from crosstask_multitask.sampler import History, Sampler
from crosstask_multitask.sharing import Inputs, MultiTaskModule, Sharing


@component
class ReferenceSampler(Sampler):
    """One task at random."""

    def sample(self, tasks: list[str], history: History, rng: torch.Generator) -> list[str]:
        if not tasks:
            raise DataError("no tasks to draw from")
        return [tasks[int(torch.randint(len(tasks), (1,), generator=rng))]]


class Heads(MultiTaskModule):
    """A trunk and a linear head per task."""

    def __init__(self, trunk: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trunk, self.heads = trunk, nn.ModuleDict(heads)

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        for task_id in inputs:
            if task_id not in self.heads:
                raise DataError(f"no head for task {task_id!r}{nearest(task_id, self.heads)}")
        return {task_id: self.heads[task_id](forward(self.trunk, batch)) for task_id, batch in inputs.items()}

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        return self.trunk.parameters()

    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        return self.heads[task_id].parameters()


@component
class ReferenceSharing(Sharing):
    """One trunk, a head per task."""

    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        if not tasks:
            raise DataError("no tasks to build heads for")
        heads = {}
        for task in tasks:
            features = features_of(trunk, task)
            with seeded(self.context.seed_for("head", task.task_id)):
                heads[task.task_id] = head_for(task, features)
        return Heads(trunk, heads)


# With what the family itself offers, so that a registry of references can run its stage.
REFERENCE = Plugin(
    name="reference-multitask",
    api=(2, 0),
    points=PLUGIN.points,
    extensions=[
        *PLUGIN.extensions,
        Extension(
            "sharing", "reference", "crosstask_multitask.testing:ReferenceSharing", summary="For checks.", default=True
        ),
        Extension("sampler", "reference", "crosstask_multitask.testing:ReferenceSampler", summary="For checks."),
    ],
)
