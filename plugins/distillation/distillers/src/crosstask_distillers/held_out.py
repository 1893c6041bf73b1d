"""What every distiller shares: which tasks it can learn from, and what its knowledge is worth on a task left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from crosstask.context import Context
from crosstask.errors import DataError, OptionError
from crosstask.learning.metrics import relative_gain
from crosstask.learning.training import evaluate, fit
from crosstask.learning.transferring import drawn, fresh_model
from crosstask.points.distillation import Distilled
from crosstask.records import Budget
from crosstask.tasks import Task


def check_rate(rate: float) -> None:
    """OptionError unless the rate is in [0, 1]."""
    if not 0 <= rate <= 1 or math.isnan(rate):
        raise OptionError(f"the adaptation rate must be between 0 and 1, got {rate!r}")


def with_models(tasks: Sequence[Task]) -> list[Task]:
    """The tasks that have a trained model. DataError if there is none."""
    found = [t for t in tasks if t.model is not None]
    if not found:
        have = ", ".join(t.task_id for t in tasks) or "none were given"
        raise DataError(f"distillation needs tasks with trained models; the tasks: {have}")
    return found


def inputs_of(task: Task, samples: Tensor | None) -> Tensor | None:
    """A task's own training inputs, else the given ones if they have its shape."""
    if task.has_data("train"):
        return task.data("train").inputs
    shape = task.descriptor.input_shape
    fits = samples is not None and (not shape or tuple(samples.shape[1:]) == shape)
    return samples if fits else None


def conditions(tasks: Sequence[Task]) -> dict[str, object]:
    """When knowledge of these tasks can be applied: to inputs of these shapes, for tasks of these types."""
    return {
        "input_shapes": sorted({t.descriptor.input_shape for t in tasks}),
        "task_types": sorted({t.descriptor.task_type for t in tasks}),
    }


def generalization(
    distill: Callable[[list[Task]], Distilled],
    apply: Callable[[nn.Module, Distilled, float], nn.Module],
    tasks: Sequence[Task],
    context: Context,
    budget: Budget,
    most: int,
) -> float | None:
    """What knowledge is worth to a task that it was not distilled from: each of up to `most` tasks is left out, a new
    model for it is given the knowledge of the others (rate 1) and trained with the few samples of `budget`, and so is
    one without. The mean of the transfer coefficients on the validation data, in [-1, 1]; None if no task can be left
    out.
    """
    gains: list[float] = []
    for task in tasks:
        if len(gains) == most:
            break
        others = [t for t in tasks if t is not task]
        if len(others) < 2 or task.model is None or not (task.has_data("train") and task.has_data("validation")):
            continue
        seed = context.seed_for("generalization", task.task_id)
        scores = []
        lesson = drawn(task, budget.samples, seed)
        plain = fresh_model(task.model, task, seed)
        try:
            models = [apply(plain, distill(others), 1.0), plain]
        except DataError:  # the others' architecture is another one: nothing can be given to this task
            continue
        for model in models:
            fit(model, lesson, budget, torch.Generator().manual_seed(seed), curve_split=None)
            scores.append(evaluate(model, task, "validation"))
        gains.append(relative_gain(*scores))
    return sum(gains) / len(gains) if gains else None
