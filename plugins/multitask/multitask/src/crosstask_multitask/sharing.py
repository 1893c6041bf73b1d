"""Sharing architectures: one module that learns several tasks at once."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from crosstask.components import Component, hook
from crosstask.errors import DataError
from crosstask.options import record
from crosstask.tasks import Task

Inputs = Mapping[str, Any]
"""A batch for each task, a tensor or a `MultiInput`; tasks of one table are given the same one, as one object."""


@record
class SharingMatrix:
    """What a module has learned of sharing: how much each of `rows` (tasks, mostly) takes of each of `columns` (tasks,
    experts, layers). `values` [rows, columns]; `told` says what a value is. Where the name says "each task" the rows
    are the tasks. DataError where the values do not fit the names.
    """

    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    told: str = ""

    def __attrs_post_init__(self) -> None:
        shape = [len(row) for row in self.values]
        if shape != [len(self.columns)] * len(self.rows):
            raise DataError(f"{self.name}: {len(self.rows)} rows of {len(self.columns)} values are named, got {shape}")

    @property
    def finite(self) -> bool:
        """Whether every value is a number."""
        return all(math.isfinite(value) for row in self.values for value in row)


class MultiTaskModule(nn.Module, ABC):
    """What a sharing architecture builds: inputs by task in, outputs by task out."""

    @abstractmethod
    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Outputs (logits, never probabilities) of each task for its own inputs. Tasks may be a subset."""

    @abstractmethod
    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that more than one task trains: those whose gradients a balancer balances. Frozen ones, as under
        an adapter, may be among them: they are left alone.
        """

    @abstractmethod
    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        """Parameters that only this task trains."""

    def on_rows(self, inputs: Inputs, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of each task for some of its inputs only: those at `rows[task]`, places in its batch.

        Tasks over one table have the same batch, and each a label for some of its rows. By default every task answers
        for the whole batch, of which the rows are taken; a module whose heads cost something can do better.
        """
        return {t: outputs[rows[t]] if t in rows else outputs for t, outputs in self(inputs).items()}

    def learned(self, inputs: Inputs) -> list[SharingMatrix]:
        """What the module has learned of sharing, as matrices to be drawn; none by default. What depends on the inputs,
        such as gates, is the mean over these, in evaluation mode.
        """
        return []

    def add_task(self, task: Task) -> None:
        """Give the module another task, whose own parameters are new; the other tasks' answers stay as they are.

        Parameters that all tasks use may be replaced by larger ones (`cross_stitch` has one more factor for each task):
        an optimiser or a trainer is made after it. DataError if it cannot be given one, or has it already.
        """
        raise DataError(f"a {type(self).__name__} cannot be given another task: build it anew with {task.task_id!r}")


class Sharing(Component):
    """Builds multi-task modules."""

    point: ClassVar[str] = "sharing"

    @abstractmethod
    @hook(first=True, returns=MultiTaskModule)
    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        """A module for these tasks around `trunk`, which maps a batch of inputs to features: [N, F], or maps
        [N, F, H, W], or those of places [N, L, F]; `crosstask_multitask.heads.head_for` makes heads for any.

        Call the trunk by `crosstask.learning.modules.forward`: inputs may be several tensors, answers a tuple or a
        mapping. What is frozen in `trunk` stays so, and its weights stay as they are.
        """
