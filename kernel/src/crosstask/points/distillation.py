"""Distillation: what several tasks have in common, as something that can be given to another model."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import attrs

from crosstask.components import Component, hook
from crosstask.records import MetaKnowledge
from crosstask.tasks import Task

if TYPE_CHECKING:
    import torch
    from torch import nn

    from crosstask.descriptors import MultiInput


@attrs.frozen(eq=False)
class Distilled:
    """Knowledge with its tensors by name (encoder weights, means and precisions)."""

    knowledge: MetaKnowledge
    tensors: dict[str, torch.Tensor] = attrs.field(factory=dict)


class Distiller(Component):
    """Distils meta-knowledge from trained tasks and gives it to other models."""

    point: ClassVar[str] = "distillation"

    @abstractmethod
    @hook(first=True, returns=Distilled)
    def distill(self, tasks: list[Task], samples: torch.Tensor | MultiInput | None) -> Distilled:
        """What these tasks (with trained models) have in common, seen on unlabelled `samples` [N, …] if needed."""

    @abstractmethod
    @hook(first=True)
    def apply(self, model: nn.Module, knowledge: Distilled, rate: float) -> nn.Module:
        """A changed copy of `model`; `rate` in [0, 1] is how far to go from it towards the knowledge."""
