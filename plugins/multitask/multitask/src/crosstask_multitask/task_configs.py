"""The classic way to describe tasks: a table of what each one's head is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import OptionError, nearest
from crosstask.options import option, record, structure
from crosstask.tasks import Task

KINDS = ("regression", "classification", "multilabel")


@record
class TaskConfig:
    """One task: how many logits it has, of which kind it is, and the widths of its own hidden layers (None: as many as
    the network gives a task by default).
    """

    output_dim: int = option(1, ge=1, help="logits; 1 for a classification is a single logit of two classes")
    task_type: str = option("regression", help="regression, classification or multilabel")
    hidden_dims: tuple[int, ...] | None = option(None, ge=1, help="widths of ReLU layers that are the task's own")

    def __attrs_post_init__(self) -> None:
        if self.task_type not in KINDS:
            raise OptionError(f"task_type {self.task_type!r} is unknown{nearest(self.task_type, KINDS)}")

    def table(self, hidden_dims: tuple[int, ...]) -> dict[str, Any]:
        """It as a table of its own, with these `hidden_dims` where it has none."""
        own = hidden_dims if self.hidden_dims is None else self.hidden_dims
        return {"output_dim": self.output_dim, "task_type": self.task_type, "hidden_dims": list(own)}

    def task(self, name: str, input_dim: int) -> Task:
        """A task without data, for an architecture to build for."""
        described = TaskDescriptor(
            task_id=name, task_type=self.task_type, input_shape=(input_dim,), output_dim=self.output_dim
        )
        return Task(descriptor=described)


def configs_of(task_configs: Any) -> dict[str, TaskConfig]:
    """What each task is, by name. OptionError says which entry of which task is wrong."""
    if not isinstance(task_configs, Mapping):
        told = type(task_configs).__name__
        raise OptionError(f"task_configs must be a table of tasks by name, got a {told}")
    if not task_configs:
        raise OptionError("task_configs: there is no task")
    return {name_of(name): config_of(name, told) for name, told in task_configs.items()}


def config_of(name: str, told: Any) -> TaskConfig:
    """One task's."""
    found: TaskConfig = structure({} if told is None else told, TaskConfig, f"task_configs: {name!r}")
    return found


def table_of(name: str, config: Any) -> dict[str, Any]:
    """What is said of a task that is added, as a table of its own. OptionError if it is none."""
    if config is not None and not isinstance(config, Mapping):
        raise OptionError(f"task_configs: {name!r} must be a table, got a {type(config).__name__}")
    return dict(config or {})


def name_of(name: Any) -> str:
    """A task's name. OptionError if it is none."""
    if not isinstance(name, str) or not name:
        raise OptionError(f"task_configs: a task's name must be a string that is not empty, got {name!r}")
    return name
