"""A mean of models that know the classes."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.graph import TransferGraph
from crosstask.options import component, option
from crosstask.points.synthesis import Synthesizer
from crosstask.records import Provenance
from crosstask.tasks import Task


class Mean(nn.Module):
    """Weighted mean of log probabilities."""

    weights: Tensor

    def __init__(self, models: Sequence[nn.Module], weights: Sequence[float], provenance: Provenance) -> None:
        super().__init__()
        self.models, self.provenance = nn.ModuleList(models), provenance
        self.register_buffer("weights", torch.tensor(weights))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = torch.stack([model(inputs).log_softmax(dim=1) for model in self.models])
        return torch.einsum("m,mnc->nc", self.weights.to(outputs), outputs)


@component
class ExampleSynthesis(Synthesizer):
    """Of the trained sources with exactly the new task's classes, a mean with weights max(coefficient, `floor`)."""

    floor: float = option(0.1, gt=0, help="weight of a source of which no help is known")

    def synthesize(
        self, new_task: TaskDescriptor, sources: list[Task], graph: TransferGraph, inputs: Tensor | None
    ) -> nn.Module:
        fit = [task for task in sources if task.model is not None and task.descriptor.classes == new_task.classes != ()]
        if not fit:
            raise DataError(
                f"task {new_task.task_id!r}: no source has a trained model for {', '.join(new_task.classes)}"
            )
        raw = [max(graph.coefficient(task.task_id, new_task.task_id), self.floor) for task in fit]
        weights = [weight / sum(raw) for weight in raw]
        named = {task.task_id: weight for task, weight in zip(fit, weights, strict=True)}
        told = Provenance(strategy=self.origin, new_task=new_task.task_id, sources=named)
        return Mean([copy.deepcopy(task.model) for task in fit if task.model is not None], weights, told)
