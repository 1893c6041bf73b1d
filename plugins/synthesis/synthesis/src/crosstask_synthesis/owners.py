"""Which models know which outputs of a task that none was trained for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.tasks import Task

Owners = list[tuple[Task, int]]
"""Models that have one output of the new task, each with the place of that output among its own."""


def unfit(new_task: TaskDescriptor, source: Task) -> str | None:
    """Why a source's model cannot take the new task's inputs or is for another type of task; None if it fits."""
    its = source.descriptor
    if source.model is None:
        return "has no trained model"
    if its.task_type != new_task.task_type:
        return f"is a {its.task_type} task"
    if its.input_shape and new_task.input_shape and its.input_shape != new_task.input_shape:
        return f"takes inputs {its.input_shape}"
    return None


def lacks_outputs(new_task: TaskDescriptor, source: Task) -> str | None:
    """Why a fitting source has no output of the new task: none of its classes, or (regression) as many outputs."""
    its = source.descriptor
    if new_task.task_type == "regression":
        return None if its.output_dim == new_task.output_dim else f"has {its.output_dim} outputs"
    return None if set(its.classes) & set(new_task.classes) else "has none of the classes"


def owners_of(new_task: TaskDescriptor, fitting: Sequence[Task], left_out: Mapping[str, str]) -> list[Owners]:
    """For each output of the new task, the sources that have it: a class of that name, or (regression) the same place.

    `left_out` says of other sources why they were left out. DataError names the outputs that nobody knows.
    """
    if new_task.task_type == "regression":
        found: list[Owners] = [[(t, k) for t in fitting] for k in range(new_task.output_dim or 0)]
        names = [f"output {k}" for k in range(len(found))]
    else:
        has = [{c: j for j, c in enumerate(t.descriptor.classes)} for t in fitting]
        names = [f"class {c!r}" for c in new_task.classes]
        found = [[(t, own[c]) for t, own in zip(fitting, has, strict=True) if c in own] for c in new_task.classes]
    if not found:
        raise DataError(
            f"task {new_task.task_id!r} needs the names of its classes, or its output_dim, to be made from others"
        )
    if missing := [name for name, group in zip(names, found, strict=True) if not group]:
        why = "; ".join(f"{t} {reason}" for t, reason in left_out.items())
        rest = f" ({why})" if why else ""
        raise DataError(f"task {new_task.task_id!r}: no source knows {', '.join(missing)}{rest}")
    return found
