"""The smallest components that do all that the two contracts say, and what the tests of the family share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from crosstask.errors import DataError, nearest
from crosstask.learning.modules import seeded
from crosstask.manifest import Extension, Plugin
from crosstask.options import component
from crosstask.tasks import Task
from crosstask_multitask.plugin import PLUGIN
from crosstask_multitask.sampler import Sampler
from crosstask_multitask.sharing import MultiTaskModule, Sharing


@component
class ReferenceSampler(Sampler):
    """One task at random."""

    def sample(self, tasks: list[str], history: dict[str, list[float]], rng: torch.Generator) -> list[str]:
        if not tasks:
            raise DataError("no tasks to draw from")
        return [tasks[int(torch.randint(len(tasks), (1,), generator=rng))]]


class Heads(MultiTaskModule):
    """A trunk and a linear head per task."""

    def __init__(self, trunk: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trunk, self.heads = trunk, nn.ModuleDict(heads)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for task_id in inputs:
            if task_id not in self.heads:
                raise DataError(f"no head for task {task_id!r}{nearest(task_id, self.heads)}")
        return {task_id: self.heads[task_id](self.trunk(batch)) for task_id, batch in inputs.items()}

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
        weight = next(trunk.parameters())
        for task in tasks:
            with torch.no_grad(), seeded(self.context.seed_for("head", task.task_id)):
                example = torch.zeros(2, *task.descriptor.input_shape).to(weight)
                width = trunk(example).shape[1]
                heads[task.task_id] = nn.Linear(width, task.descriptor.output_dim or 1).to(weight)
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
