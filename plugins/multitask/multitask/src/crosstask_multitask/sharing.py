"""Sharing architectures: one module that learns several tasks at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

from torch import Tensor, nn

from crosstask.components import Component, hook
from crosstask.tasks import Task


class MultiTaskModule(nn.Module, ABC):
    """What a sharing architecture builds: inputs by task in, outputs by task out."""

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs (logits, never probabilities) of each task for its own inputs. Tasks may be a subset."""

    @abstractmethod
    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that more than one task trains: those whose gradients a balancer balances. Frozen ones, as under
        an adapter, may be among them: they are left alone.
        """

    @abstractmethod
    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        """Parameters that only this task trains."""


class Sharing(Component):
    """Builds multi-task modules."""

    point: ClassVar[str] = "sharing"

    @abstractmethod
    @hook(first=True, returns=MultiTaskModule)
    def build(self, tasks: list[Task], trunk: nn.Module) -> MultiTaskModule:
        """A module for these tasks around `trunk`, which maps a batch of inputs to features [N, F].

        What is frozen in `trunk` stays so, and its weights stay as they are.
        """
