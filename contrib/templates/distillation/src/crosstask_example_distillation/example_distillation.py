"""Mean weights as what tasks have in common."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from crosstask.errors import DataError, OptionError
from crosstask.options import component, option
from crosstask.points.distillation import Distilled, Distiller
from crosstask.records import MetaKnowledge
from crosstask.tasks import Task


@component
class ExampleDistillation(Distiller):
    """The mean of every weight that at least `least` trained models have under one name and shape.

    `apply` moves the weights of a copy from the model's (rate 0) to the mean (rate 1).
    """

    least: int = option(2, ge=1, help="models that must share a weight")

    def distill(self, tasks: list[Task], samples: Tensor | None) -> Distilled:
        states = {task.task_id: task.model.state_dict() for task in tasks if task.model is not None}
        if not states:
            raise DataError("nothing to distil: none of the tasks has a trained model")
        found: dict[tuple[str, torch.Size], list[Tensor]] = {}
        for weights in states.values():
            for name, tensor in weights.items():
                if tensor.is_floating_point():
                    found.setdefault((name, tensor.shape), []).append(tensor.detach())
        means = {name: torch.stack(same).mean(dim=0) for (name, _), same in found.items() if len(same) >= self.least}
        knowledge = MetaKnowledge(
            kind="prior", source_tasks=tuple(states), seed=self.context.seed, options=self.options()
        )
        return Distilled(knowledge=knowledge, tensors=means)

    def apply(self, model: nn.Module, knowledge: Distilled, rate: float) -> nn.Module:
        if not 0 <= rate <= 1:
            raise OptionError(f"rate must be between 0 and 1, got {rate}")
        changed = copy.deepcopy(model)
        with torch.no_grad():
            for name, tensor in changed.state_dict().items():
                mean = knowledge.tensors.get(name)
                if mean is not None and mean.shape == tensor.shape:
                    tensor.lerp_(mean.to(tensor), rate)
        return changed
