"""Meta-learners: learn from many small tasks how to learn the next from a few samples."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from crosstask.components import Component, hook

if TYPE_CHECKING:
    import torch
    from torch import nn

    from crosstask.learning.episodes import Episodes
    from crosstask.tasks import TensorData


class MetaLearner(Component):
    """Trains a model over episodes so that it adapts to a new task from its support set."""

    point: ClassVar[str] = "meta_learner"

    @abstractmethod
    @hook(first=True, returns=dict)
    def meta_step(self, model: nn.Module, episodes: Episodes, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """One step of `optimizer` on a batch of episodes: metrics, `loss` (query loss after adaptation) among them."""

    @abstractmethod
    @hook(first=True)
    def adapt(self, model: nn.Module, support: TensorData, steps: int) -> nn.Module:
        """A model for the task of this support set: `model` itself is left as it was."""
