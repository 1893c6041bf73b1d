"""One classification task as a sequence of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch

from crosstask.errors import DataError
from crosstask.tasks import Task


def split_by_classes(task: Task, parts: int | Sequence[Sequence[int]]) -> list[Task]:
    """One classification task as a sequence of tasks with some of its classes each: Split MNIST from MNIST.

    `parts`: how many (classes in their order, as evenly as possible), or the labels of each. Labels of each part run
    from 0; the class names go with them (without names, the old labels are the names). DataError if a part has no
    samples, or no such classes exist.
    """
    count = task.descriptor.output_dim
    if task.descriptor.task_type != "classification" or count is None:
        raise DataError(f"task {task.task_id!r}: only a classification task with output_dim can be split by classes")
    if isinstance(parts, int):
        if not 1 <= parts <= count:
            raise DataError(f"task {task.task_id!r} has {count} classes, it cannot be split into {parts} tasks")
        groups = [c.tolist() for c in torch.arange(count).tensor_split(parts)]
    else:
        groups = [list(group) for group in parts]
    flat = [label for group in groups for label in group]
    if len(set(flat)) != len(flat) or not all(0 <= label < count for label in flat) or not all(groups):
        raise DataError(f"parts must be groups of different labels from 0 to {count - 1}, got {groups}")
    return [_with_classes(task, group) for group in groups]


def _with_classes(task: Task, group: list[int]) -> Task:
    names = task.descriptor.classes or tuple(str(label) for label in range(task.descriptor.output_dim or 0))
    chosen = tuple(names[label] for label in group)
    places = torch.full((len(names),), -1)
    places[group] = torch.arange(len(group))
    splits: dict[str, Any] = {}
    for split in ("train", "validation", "test"):
        if task.has_data(split):
            data = task.data(split)
            targets = places.to(data.targets.device)[data.targets]
            if not bool((targets >= 0).any()):
                raise DataError(f"task {task.task_id!r} has no {split} samples of {', '.join(chosen)}")
            splits[split] = (data.inputs[targets >= 0], targets[targets >= 0])
    descriptor = attrs.evolve(
        task.descriptor,
        task_id=f"{task.task_id}:{'+'.join(chosen)}",
        task_name=f"{task.descriptor.task_name}: {', '.join(chosen)}",
        classes=chosen,
        output_dim=len(group),
        sample_count=len(splits["train"][1]) if "train" in splits else None,
        prerequisites=(),
        performance_history=(),
        transfer_efficiency={},
        embedding=None,
    )
    return Task(descriptor=descriptor, **splits)
