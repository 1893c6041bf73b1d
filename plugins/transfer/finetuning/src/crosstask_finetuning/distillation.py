"""The `distillation` transfer method."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import DataError
from crosstask.learning.modules import copy_of, forward, head_found, head_of, uncompiled
from crosstask.learning.training import History, fit
from crosstask.options import component, option
from crosstask.points.transfer import Transfer
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_finetuning.partial import fit_head


@component
class Distillation(Transfer):
    """Fine-tuning in which the source model is the teacher (Hinton et al. 2015, section 2).

    - Same classes in both tasks: adds weight * T² * KL(teacher's softmax at temperature T || student's). The T² keeps
      the strength of the gradient as T changes. For regression: weight * mean squared difference of the outputs.
    - Other label spaces have no soft labels in common: adds weight * mean squared difference of the features that the
      heads receive (as hints: Romero et al. 2015, equation 1), and the head is fitted first, as in `lp_ft`.

    DataError if the features differ in shape, too. The teacher stays in evaluation mode.
    """

    results_version: ClassVar[int] = 2  # features of the trunk are computed once

    temperature: float = option(2.0, gt=0, help="softness T of the labels")
    weight: float = option(0.1, ge=0, help="strength of the teacher beside the true labels")
    head_share: float = option(0.5, ge=0, lt=1, help="share of the steps for a new head alone")
    head_rate: float = option(10.0, gt=0, help="learning rate of a new head alone, as a multiple of the budget's")

    def learn(
        self, model: nn.Module, source: nn.Module, task: Task, budget: Budget, generator: torch.Generator
    ) -> History:
        teacher = copy_of(source).eval().requires_grad_(False)
        if same_head(model, source):
            classes = task.descriptor.task_type == "classification"

            def soft(inputs: Tensor, outputs: Tensor) -> Tensor:
                answer = forward(teacher, inputs)
                if not classes:
                    return self.weight * functional.mse_loss(outputs, answer)
                return self.weight * soft_label_loss(outputs, answer, self.temperature)

            return fit(model, task, budget, generator, penalty=soft)
        if head_found(model).module is None:
            raise DataError(
                f"task {task.task_id!r}: the head of {type(model).__name__} is no module, so its features cannot be "
                "held to the teacher's: the classes of both tasks must be the same, or the head a layer"
            )
        first = round(self.head_share * budget.steps)
        history = fit_head(model, task, budget, generator, first, self.head_rate) if first else History()
        with _Input(head_of(model)) as ours, _Input(head_of(teacher)) as theirs:

            def hint(inputs: Tensor, outputs: Tensor) -> Tensor:
                forward(teacher, inputs)
                if ours.value.shape != theirs.value.shape:
                    shapes = f"{tuple(theirs.value.shape[1:])} and {tuple(ours.value.shape[1:])}"
                    raise DataError(f"task {task.task_id!r}: teacher and student have features of shape {shapes}")
                return self.weight * functional.mse_loss(ours.value, theirs.value)

            return history.extend(fit(model, task, budget, generator, steps=budget.steps - first, penalty=hint))


def soft_label_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL(softmax(teacher / T) || softmax(student / T)), the mean over samples; logits [N, C]."""
    ours = functional.log_softmax(student / temperature, dim=-1)
    theirs = functional.log_softmax(teacher / temperature, dim=-1)
    return temperature**2 * functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def same_head(model: nn.Module, source: nn.Module) -> bool:
    """Whether the model still has the source's head: it was kept because both tasks have the same classes."""
    ours, theirs = head_of(model).state_dict(), head_of(source).state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[k].shape == theirs[k].shape and torch.equal(ours[k], theirs[k]) for k in ours
    )


class _Input:
    """Inside, `value` is what the module was last called with."""

    value: Tensor

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __enter__(self) -> _Input:
        self._handle = self._module.register_forward_pre_hook(self._keep)
        self._eager = uncompiled()
        self._eager.__enter__()
        return self

    def __exit__(self, *failure: object) -> None:
        self._eager.__exit__(None, None, None)
        self._handle.remove()

    def _keep(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self.value = arguments[0]
