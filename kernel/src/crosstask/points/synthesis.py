"""Synthesis: a model for an unseen task, made from models of other tasks without training on its labels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from crosstask.components import Component, hook
from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.graph import TransferGraph
from crosstask.records import Interval
from crosstask.tasks import Task

if TYPE_CHECKING:
    import torch
    from torch import nn


class Synthesizer(Component):
    """Makes a model for a task of which only the descriptor, and perhaps unlabelled inputs, are known."""

    point: ClassVar[str] = "synthesis"

    @abstractmethod
    @hook(first=True)
    def synthesize(
        self,
        new_task: TaskDescriptor,
        sources: list[Task],
        graph: TransferGraph,
        inputs: torch.Tensor | MultiInput | None,
    ) -> nn.Module:
        """A module that maps inputs to the new task's outputs (logits for classification).

        `sources` carry trained models; `inputs` [N, …] are unlabelled and may be None. Models are called with
        `crosstask.learning.modules.forward`: they may take several inputs, and answer with a tuple or a mapping. The
        module's attribute `provenance` is a `crosstask.Provenance`. DataError if no source fits, with what is missing.
        """

    def expect(
        self, make: Callable[..., nn.Module], model: nn.Module, new_task: TaskDescriptor, sources: list[Task],
        graph: TransferGraph, inputs: torch.Tensor | MultiInput | None,
    ) -> tuple[Interval | None, str] | None:  # fmt: skip
        """What `model`, which `synthesize` has made, can be expected to score, with a 95 % interval (None: unknown),
        and in a sentence how that was found, or why not. `make(descriptor, sources, graph, inputs)` synthesises for
        another task through the run. None: this synthesizer never says.
        """
        return None
