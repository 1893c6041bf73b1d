"""Which models know which outputs of a task that none was trained for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError
from crosstask.learning.inputs import shape_of
from crosstask.learning.training import predict
from crosstask.tasks import Task
from crosstask_synthesis.outputs import CLASSES

Owners = list[tuple[Task, int]]
"""Models that have one output of the new task, each with the place of that output among its own."""


class ByOutputs:
    """A synthesizer that asks `owners_of` is one, too: what the new task must say of its outputs is asked of it before
    any work.
    """


def unnamed(new_task: TaskDescriptor) -> str | None:
    """What a new task does not say of its outputs, and how to say it; None: `owners_of` can look who knows them."""
    if by_place(new_task):
        return None if new_task.output_dim else _UNNAMED.format(new_task.task_id, "its output_dim", "output_dim=...")
    if new_task.classes:
        return None
    return _UNNAMED.format(new_task.task_id, "the names of its classes", "classes=...")


_UNNAMED = "task {!r} needs {}, to be made from others: say TaskDescriptor({})"


def unfit(new_task: TaskDescriptor, source: Task, inputs: Tensor | MultiInput | None = None) -> str | None:
    """Why a source's model cannot take the new task's inputs (`inputs` are tried) or is for another type of task; None
    if it fits.
    """
    its = source.descriptor
    if source.model is None:
        return "has no trained model"
    if its.task_type != new_task.task_type:
        return f"is a {its.task_type} task"
    for ours, theirs in ((its.input_shape, new_task.input_shape), (its.input_shapes, new_task.input_shapes)):
        if ours and theirs and ours != theirs:
            return f"takes inputs {ours}"
    if (its.input_shape and new_task.input_shapes) or (its.input_shapes and new_task.input_shape):
        return f"takes inputs {its.input_shape or its.input_shapes}"
    if inputs is not None and len(inputs):
        try:
            predict(source.model, inputs[:2])
        except DataError as error:
            return f"does not take the inputs: {error}"
    return None


def strange_inputs(new_task: TaskDescriptor, inputs: Tensor | MultiInput | None) -> None:
    """DataError if the unlabelled inputs are not of the shape that the new task says."""
    wanted = new_task.input_shape or new_task.input_shapes
    if inputs is not None and wanted and shape_of(inputs) != wanted:
        raise DataError(f"task {new_task.task_id!r} has inputs {wanted}, the unlabelled ones have {shape_of(inputs)}")


def by_place(task: TaskDescriptor) -> bool:
    """Whether outputs are the same thing where they have the same number: values, and labels without names."""
    return task.task_type == "regression" or (task.task_type == "multilabel" and not task.classes)


def lacks_outputs(new_task: TaskDescriptor, source: Task) -> str | None:
    """Why a fitting source has no output of the new task: none of its classes, or (values) as many outputs."""
    its = source.descriptor
    if by_place(new_task):
        return None if its.output_dim == new_task.output_dim else f"has {its.output_dim} outputs"
    return None if set(its.classes) & set(new_task.classes) else "has none of the classes"


def owners_of(new_task: TaskDescriptor, fitting: Sequence[Task], left_out: Mapping[str, str]) -> list[Owners]:
    """For each output of the new task, the sources that have it: a class of that name, or (values) the same place.

    `left_out` says of other sources why they were left out. DataError names the outputs that nobody knows, or the types
    of task for which models are made from outputs, if it is of none of them.
    """
    if new_task.task_type not in (*CLASSES, "regression", "multilabel"):
        raise DataError(
            f"task {new_task.task_id!r} is of type {new_task.task_type!r}: what its outputs are is not known, so that "
            f"no model can be made from those of others; it can for {', '.join(CLASSES)}, regression and multilabel"
        )
    if by_place(new_task):
        found: list[Owners] = [[(t, k) for t in fitting] for k in range(new_task.output_dim or 0)]
        names = [f"output {k}" for k in range(len(found))]
    else:
        has = [{c: j for j, c in enumerate(t.descriptor.classes)} for t in fitting]
        names = [f"class {c!r}" for c in new_task.classes]
        found = [[(t, own[c]) for t, own in zip(fitting, has, strict=True) if c in own] for c in new_task.classes]
    if reason := unnamed(new_task):
        raise DataError(reason)
    if missing := [name for name, group in zip(names, found, strict=True) if not group]:
        why = "; ".join(f"{t} {reason}" for t, reason in left_out.items())
        rest = f" ({why})" if why else ""
        raise DataError(f"task {new_task.task_id!r}: no source knows {', '.join(missing)}{rest}")
    return found
