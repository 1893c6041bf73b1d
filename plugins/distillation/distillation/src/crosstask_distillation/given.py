"""What a distiller is given: tasks of which some have models, inputs, a rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError, OptionError
from crosstask.learning.inputs import shape_of
from crosstask.logs import logger
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


def inputs_of(task: Task, samples: Tensor | MultiInput | None) -> Tensor | MultiInput | None:
    """A task's own training inputs, else the given ones if they have its shape."""
    if task.has_data("train"):
        return task.data("train").inputs
    shape = task.descriptor.input_shape or task.descriptor.input_shapes
    fits = samples is not None and (not shape or shape_of(samples) == shape)
    return samples if fits else None


def conditions(tasks: Sequence[Task], left_out: Mapping[str, str] | None = None) -> dict[str, object]:
    """When knowledge of these tasks can be applied: to inputs of these shapes, for tasks of these types; and why others
    took no part in it, which is logged, too.
    """
    shapes = [t.descriptor.input_shape or t.descriptor.input_shapes for t in tasks]
    told: dict[str, object] = {
        "input_shapes": sorted((s for n, s in enumerate(shapes) if s not in shapes[:n]), key=str),
        "task_types": sorted({t.descriptor.task_type for t in tasks}),
    }
    if left_out:
        logger().info("tasks left out", of="distillation", reasons=dict(left_out))
        told["left_out"] = dict(left_out)
    return told
