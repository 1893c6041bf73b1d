"""What the three networks share: features of all images in one pass, scores from comparing them, no inner loop."""

from __future__ import annotations

import copy
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.descriptors import TensorData
from crosstask.errors import DataError, RunError
from crosstask.learning.episodes import Episodes, episode_accuracy, of_task
from crosstask.options import component, option
from crosstask.points.meta_learner import MetaLearner


@component
class MetricLearner(MetaLearner):
    """Base of the learners that train an encoder (inputs to features) in whose space classes are compared.

    Nothing is adapted: a support set is taken in by one forward pass, `steps` mean nothing, and episodes may have any
    number of classes. Batch normalisation learns its running statistics as in ordinary training and uses them to
    predict.
    """

    capabilities = frozenset({"encoder"})
    lr_meta: float = option(0.001, gt=0, help="step size of the meta-steps (Adam)")

    @abstractmethod
    def _scores(self, model: nn.Module, support: Tensor, targets: Tensor, query: Tensor, ways: int) -> Tensor:
        """Scores [B, Q, ways] from features [B, S, …] of labels [B, S], and features [B, Q, …] of queries."""

    def _encoder(self, model: nn.Module) -> nn.Module:
        return model

    def _losses(self, scores: Tensor, targets: Tensor) -> Tensor:
        """The loss of each episode [B]: of log-probabilities [B, Q, ways] at the right classes [B, Q]."""
        return -scores.gather(2, targets[:, :, None]).flatten(1).mean(1)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=self.lr_meta)

    def meta_step(self, model: nn.Module, episodes: Episodes, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        scores = self._compared(model, episodes)
        losses = self._losses(scores, episodes.query_targets)
        loss = losses.mean()
        if not bool(torch.isfinite(loss)):
            number = int((~torch.isfinite(losses)).nonzero()[0])
            raise RunError(
                f"{self.origin}: the loss of episode {number} is {float(losses[number].detach())}: inputs or weights "
                f"are not finite, or lr_meta = {self.lr_meta:g} is too large"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        accuracy = episode_accuracy(scores.detach(), episodes.query_targets)
        return {"loss": float(loss.detach()), "accuracy": float(accuracy.mean())}

    def adapt(self, model: nn.Module, support: TensorData, steps: int | None) -> nn.Module:
        own, ways = of_task(support)
        if ways is None:
            raise DataError(_NO_CLASSES.format(self.origin))
        return Comparing(self, model, own, ways)

    @torch.no_grad()
    def predict(self, model: nn.Module, episodes: Episodes, steps: int | None) -> Tensor:
        mode = model.training
        model.eval()
        try:
            return self._compared(model, episodes)
        finally:
            model.train(mode)

    def _compared(self, model: nn.Module, episodes: Episodes) -> Tensor:
        if episodes.ways is None:
            raise DataError(_NO_CLASSES.format(self.origin))
        count, shots = episodes.support_targets.shape
        both = torch.cat([episodes.support_inputs.flatten(0, 1), episodes.query_inputs.flatten(0, 1)])
        features = self._encoder(model)(both)
        support = features[: count * shots].reshape(count, shots, *features.shape[1:])
        query = features[count * shots :].reshape(count, -1, *features.shape[1:])
        return self._scores(model, support, episodes.support_targets, query, episodes.ways)


_NO_CLASSES = "{}: episodes without classes (regression) cannot be learned by comparing features; use maml or reptile"


class Comparing(nn.Module):
    """A classifier for the task of one support set: inputs [N, …] to scores [N, ways]."""

    features: Tensor
    targets: Tensor

    def __init__(self, learner: MetricLearner, model: nn.Module, support: TensorData, ways: int) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.learner, self.ways = learner, ways
        self.eval()
        with torch.no_grad():
            features = learner._encoder(self.model)(support.inputs)
        self.register_buffer("features", features)
        self.register_buffer("targets", support.targets)

    def forward(self, inputs: Tensor) -> Tensor:
        query = self.learner._encoder(self.model)(inputs)
        learner = self.learner
        return learner._scores(self.model, self.features[None], self.targets[None], query[None], self.ways)[0]


def class_sums(features: Tensor, targets: Tensor, ways: int) -> tuple[Tensor, Tensor]:
    """(sum of the features of each class [B, ways, …], how many there are [B, ways]) from [B, S, …] and [B, S]."""
    members = functional.one_hot(targets, ways).to(features.dtype)
    sums = torch.einsum("bsn,bsf->bnf", members, features.flatten(2))
    return sums.reshape(*sums.shape[:2], *features.shape[2:]), members.sum(1)
