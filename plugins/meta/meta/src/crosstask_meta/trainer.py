"""A meta-learner at work on one model: what keeps the model and its optimiser between the steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.descriptors import TensorData
from crosstask.learning.episodes import Episodes
from crosstask.learning.training import device_of
from crosstask.points.meta_learner import MetaLearner


class BaseMetaLearner:
    """A `MetaLearner` with the model it trains and its optimiser, for use without a run.

        trainer = BaseMetaLearner(MAML(num_inner_steps=5), model)
        metrics = trainer.meta_train_step(episodes)
        adapted = trainer.adapt_to_task(support_x, support_y)

    The algorithm is in the learner's hooks `meta_step` and `adapt`; anyone's learner works here, by composition.
    Batches come from `create_meta_batch` or `EpisodeSampler` (crosstask_meta.samplers), or are lists of tasks (support
    inputs, support labels, query inputs, query labels). `optimizer`: of `model`'s parameters (default: the
    learner's own).
    """

    def __init__(self, learner: MetaLearner, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        self.learner, self.model, self.optimizer = learner, model, optimizer
        self._prepared = False

    def meta_train_step(self, batch: Episodes | Iterable[Sequence[Any]]) -> dict[str, float]:
        """One step on a batch: metrics, `loss` (of the queries, after adaptation) and `accuracy` among them."""
        episodes = self._prepare(batch)
        if self.optimizer is None:
            self.optimizer = self.learner.optimizer(self.model)
        return self.learner.meta_step(self.model, episodes, self.optimizer)

    def adapt_to_task(self, support_x: Any, support_y: Any, num_steps: int | None = None) -> nn.Module:
        """The model of the task of a support set; columns of its scores follow the labels in rising order."""
        device = device_of(self.model)
        support = TensorData(torch.as_tensor(support_x).to(device), torch.as_tensor(support_y).to(device))
        self._prepare_for(support)
        return self.learner.adapt(self.model, support, num_steps)

    def predict(self, batch: Episodes | Iterable[Sequence[Any]], num_steps: int | None = None) -> Tensor:
        """Scores [B, Q, ways] of the queries of each task after adaptation to its support set."""
        return self.learner.predict(self.model, self._prepare(batch), num_steps)

    def state_dict(self) -> dict[str, Any]:
        """Model, optimiser and learner: everything that training changes."""
        made = None if self.optimizer is None else self.optimizer.state_dict()
        return {"model": self.model.state_dict(), "optimizer": made, "learner": self.learner.state_dict()}

    def load_state_dict(self, state: dict[str, Any], batch: Episodes | Iterable[Sequence[Any]]) -> None:
        """Go on where `state_dict` was taken. `batch`: any tasks like those of the training, to prepare the model."""
        self._prepare(batch)
        self.model.load_state_dict(state["model"])
        self.learner.load_state_dict(state["learner"])
        if state["optimizer"] is not None:
            if self.optimizer is None:
                self.optimizer = self.learner.optimizer(self.model)
            self.optimizer.load_state_dict(state["optimizer"])

    def _prepare(self, batch: Episodes | Iterable[Sequence[Any]]) -> Episodes:
        episodes = (batch if isinstance(batch, Episodes) else Episodes.of(batch)).to(device_of(self.model))
        if not self._prepared:
            self.model, self._prepared = self.learner.prepare(self.model, episodes), True
        return episodes

    def _prepare_for(self, support: TensorData) -> None:
        if not self._prepared:
            one = Episodes(support.inputs[None], support.targets[None], support.inputs[None], support.targets[None])
            self._prepare(one)
