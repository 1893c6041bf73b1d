"""Meta-learners: learn from many small tasks how to learn the next from a few samples."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from crosstask.components import Component, hook

if TYPE_CHECKING:
    from crosstask.descriptors import TensorData
    from crosstask.learning.episodes import Episodes


class MetaLearner(Component):
    """Trains a model over episodes so that it adapts to a new task from its support set.

    Capabilities: `encoder` (the model maps inputs to features, not to the classes of an episode, whose number may
    change from batch to batch) and `regression` (episodes without classes can be learned too). A learner without
    `encoder` takes a model with one output for each class of an episode.
    """

    point: ClassVar[str] = "meta_learner"

    def prepare(self, model: nn.Module, episodes: Episodes) -> nn.Module:
        """The module to train: `model` itself, or a module around it that also holds what this learner learns beside.

        Called once, before the first step; `episodes` shows what inputs look like. Every other method is given what
        this one returned.
        """
        return model

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of the meta-steps that suits this learner: Adam at 0.001, unless the learner says another."""
        return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    @abstractmethod
    @hook(first=True, returns=dict)
    def meta_step(self, model: nn.Module, episodes: Episodes, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """One step of `optimizer` on a batch of episodes, in place: metrics, `loss` among them, and `accuracy` if the
        episodes have classes: both of the queries after adaptation to the support set, over all episodes.

        RunError if a loss is not finite; the weights are then as they were. DataError if the model does not fit.
        """

    @abstractmethod
    @hook(first=True)
    def adapt(self, model: nn.Module, support: TensorData, steps: int | None) -> nn.Module:
        """A model for the task of this support set, in evaluation mode; `model` itself is left as it was.

        Its outputs are scores (logits) [N, classes of the support set], classes in the order of their labels, which
        may be any integers; for regression, values. `steps`: of adaptation (None: as in training), where the learner
        has any. DataError for one class only, or for another number of classes than the model can tell apart.
        """

    @torch.no_grad()
    def predict(self, model: nn.Module, episodes: Episodes, steps: int | None) -> Tensor:
        """Scores [B, Q, ways] of the queries of each episode by its own adapted model (regression: values).

        A learner that can adapt to all of them at once overrides this; the answers are those of `adapt`.
        """
        found = []
        for number in range(len(episodes)):
            with torch.enable_grad():
                adapted = self.adapt(model, episodes.support(number), steps)
            found.append(adapted(episodes.query_inputs[number]))
        return torch.stack(found)
