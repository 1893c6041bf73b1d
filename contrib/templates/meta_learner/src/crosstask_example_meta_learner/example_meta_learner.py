"""Ridge regression on learned features."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.descriptors import TensorData
from crosstask.errors import DataError, RunError
from crosstask.learning.episodes import Episodes, episode_accuracy, episode_losses, of_task
from crosstask.options import component, option
from crosstask.points.meta_learner import MetaLearner


class Classifier(nn.Module):
    """An encoder with a linear head."""

    head: Tensor

    def __init__(self, encoder: nn.Module, head: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("head", head)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.encoder(inputs).flatten(1) @ self.head
        return found


@component
class ExampleMetaLearner(MetaLearner):
    """Adapts by solving for the head: least squares between features and classes, with a penalty on its weights."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"encoder"})

    penalty: float = option(1.0, gt=0, help="on the squared weights of the head")

    def meta_step(self, model: nn.Module, episodes: Episodes, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        self.check_episodes(episodes)
        if episodes.ways is None:
            raise DataError(f"{self.origin}: episodes without classes cannot be learned")
        scores = []
        for number in range(len(episodes)):
            support = episodes.support(number)
            both = torch.cat([support.inputs, episodes.query_inputs[number]])
            features = model(both).flatten(1)
            head = self._head(features[: len(support)], support.targets, episodes.ways)
            scores.append(features[len(support) :] @ head)
        outputs = torch.stack(scores)
        loss = episode_losses(outputs, episodes.query_targets).mean()
        if not bool(torch.isfinite(loss)):
            raise RunError(f"{self.origin}: the loss is {float(loss.detach())}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        accuracy = episode_accuracy(outputs.detach(), episodes.query_targets).mean()
        return {"loss": float(loss.detach()), "accuracy": float(accuracy)}

    def adapt(self, model: nn.Module, support: TensorData, steps: int | None) -> nn.Module:
        own, ways = of_task(support)
        if ways is None:
            raise DataError(f"{self.origin}: a task without classes cannot be learned")
        encoder = copy.deepcopy(model).eval()
        with torch.no_grad():
            head = self._head(encoder(own.inputs).flatten(1), own.targets, ways)
        return Classifier(encoder, head).eval()

    def _head(self, features: Tensor, targets: Tensor, ways: int) -> Tensor:
        """Weights [F, ways], by way of the [S, S] products of the samples, which are few."""
        wanted = functional.one_hot(targets, ways).to(features.dtype)
        products = features @ features.T + self.penalty * torch.eye(len(features)).to(features)
        return features.T @ torch.linalg.solve(products, wanted)
