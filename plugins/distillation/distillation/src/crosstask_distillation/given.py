"""What a distiller is given: tasks of which some have models, inputs, a rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from crosstask.errors import DataError, OptionError
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
