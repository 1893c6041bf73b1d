"""What distilled knowledge is worth, measured on tasks that were left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from crosstask.components import Context
from crosstask.errors import DataError, RunError
from crosstask.learning.metrics import relative_gain
from crosstask.learning.objectives import metric_of
from crosstask.learning.training import evaluate, fit
from crosstask.learning.transferring import drawn, fresh_model
from crosstask.points.distillation import Distilled
from crosstask.records import Budget
from crosstask.tasks import Task


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
        try:
            lesson = drawn(task, budget.samples, seed)
            plain = fresh_model(task.model, task, seed)
            models = [apply(plain, distill(others), 1.0), plain]
            for model in models:
                fit(model, lesson, budget, torch.Generator().manual_seed(seed), curve_split=None)
                scores.append(evaluate(model, task, "validation"))
        except (DataError, RunError):  # the others' architecture is another one, or a training of it diverges
            continue
        gains.append(relative_gain(scores[0], scores[1], metric_of(task).best))
    return sum(gains) / len(gains) if gains else None
