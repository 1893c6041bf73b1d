"""What is known of a task (`TaskDescriptor`), and a split of its data in memory (`TensorData`)."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from crosstask.errors import DataError
from crosstask.options import option, record, structure, unstructure

if TYPE_CHECKING:
    import torch


@record
class Performance:
    """One measured value of a task's metric."""

    metric: str
    value: float
    when: datetime.datetime = attrs.field(factory=lambda: datetime.datetime.now(datetime.UTC))


@record
class TaskDescriptor:
    """What is known of a task without its data. Immutable; `with_performance` and `attrs.evolve` return changed copies.

    `classes` names the labels 0, 1, … of a classification task: tasks that share class names share knowledge of them.
    """

    task_id: str
    task_name: str = attrs.field(default=attrs.Factory(lambda self: self.task_id, takes_self=True))
    task_type: str = "classification"
    domain: str = "general"
    input_shape: tuple[int, ...] = option((), ge=1, help="shape of one input, without the batch")
    output_dim: int | None = option(None, ge=1, help="number of classes, or of regression targets")
    sample_count: int | None = option(None, ge=0, help="training samples")
    complexity: float = option(0.5, ge=0, le=1, help="0 easy to 1 hard")
    required_skills: tuple[str, ...] = ()
    domain_knowledge: tuple[str, ...] = ()
    prerequisites: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    performance_history: tuple[Performance, ...] = ()
    transfer_efficiency: dict[str, float] = attrs.field(factory=dict)
    embedding: tuple[float, ...] | None = None

    def __attrs_post_init__(self) -> None:
        if not self.task_id:
            raise DataError("TaskDescriptor: task_id must not be empty")
        if self.task_id in self.prerequisites:
            raise DataError(f"task {self.task_id!r} names itself as a prerequisite")
        if self.classes and self.output_dim not in (None, len(self.classes)):
            raise DataError(f"task {self.task_id!r}: {len(self.classes)} class names for output_dim {self.output_dim}")

    @property
    def input_dim(self) -> int | None:
        """Numbers in one input; None if the shape is unknown."""
        return functools.reduce(lambda a, b: a * b, self.input_shape) if self.input_shape else None

    def with_performance(self, metric: str, value: float) -> TaskDescriptor:
        """A copy with one more measurement at the end of the history."""
        return attrs.evolve(
            self, performance_history=(*self.performance_history, Performance(metric=metric, value=value))
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        return dict(unstructure(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TaskDescriptor:
        """Checked; OptionError names the field that is wrong."""
        made: TaskDescriptor = structure(data, cls, "task descriptor")
        return made


@attrs.frozen(eq=False)
class TensorData:
    """One split in memory: `inputs` [N, …] and `targets` [N] (labels) or [N, K] (values)."""

    inputs: torch.Tensor
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def head(self, count: int | None) -> TensorData:
        """The first `count` samples (all if None): splits are shuffled when they are made."""
        return self if count is None or count >= len(self) else TensorData(self.inputs[:count], self.targets[:count])
