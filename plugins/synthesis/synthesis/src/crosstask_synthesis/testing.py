"""For tests of synthesizers: descriptors and tasks in a line."""

from __future__ import annotations

from typing import Any

from torch import nn

from crosstask.tasks import Task, TaskDescriptor


def described(name: str, classes: str = "", **more: Any) -> TaskDescriptor:
    """A descriptor whose classes are letters, with as many outputs; without letters it has none (unless given)."""
    return TaskDescriptor(**{"task_id": name, "classes": tuple(classes), "output_dim": len(classes) or None} | more)


def source(name: str, classes: str = "", model: nn.Module | None = None, **more: Any) -> Task:
    """A task that is described so and has no data."""
    return Task(descriptor=described(name, classes, **more), model=model)
