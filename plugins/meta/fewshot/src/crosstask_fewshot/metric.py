"""What the three networks share: features of all images in one pass, scores from comparing them, no inner loop."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.descriptors import TensorData
from crosstask.errors import DataError, RunError
from crosstask.learning.episodes import Episodes, episode_accuracy, episode_means, of_task
from crosstask.learning.modules import copy_of, forward
from crosstask.options import component, option
from crosstask.points.meta_learner import MetaLearner


@component
class MetricLearner(MetaLearner):
    """Base of the learners that train an encoder (inputs to features) in whose space classes are compared.

    Nothing is adapted: a support set is taken in by one forward pass, `steps` mean nothing, and episodes may have any
    number of classes. Batch normalisation learns its running statistics as in ordinary training and uses them to
    predict.
    """

    capabilities = frozenset({"encoder", "ragged"})
    lr_meta: float = option(0.001, gt=0, help="step size of the meta-steps (Adam)")

    @abstractmethod
    def _scores(self, model: nn.Module, support: Tensor, members: Tensor, query: Tensor) -> Tensor:
        """Scores [B, Q, ways] from features [B, S, …], which of them are samples of which class [B, S, ways] (0 or 1;
        of padding: none), and features [B, Q, …] of queries.
        """

    def _encoder(self, model: nn.Module) -> nn.Module:
        return model

    def _losses(self, scores: Tensor, targets: Tensor) -> Tensor:
        """The loss of each query [B, Q]: of log-probabilities [B, Q, ways] at the right classes [B, Q]."""
        return -scores.gather(2, targets[:, :, None]).squeeze(2)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        trained = [p for p in model.parameters() if p.requires_grad]
        if not trained:
            raise DataError(f"{self.origin}: the encoder has no trainable parameter")
        return torch.optim.Adam(trained, lr=self.lr_meta)

    def meta_step(self, model: nn.Module, episodes: Episodes, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        self.check_episodes(episodes)
        scores = self._compared(model, episodes)
        losses = episode_means(self._losses(scores, episodes.query_targets), episodes.query_mask)
        loss = losses.mean()
        if not loss.requires_grad:
            raise DataError(f"{self.origin}: the features depend on no trainable parameter: is the encoder frozen?")
        if not bool(torch.isfinite(loss)):
            number = int((~torch.isfinite(losses)).nonzero()[0])
            raise RunError(
                f"{self.origin}: the loss of {episodes.name(number)} is {float(losses[number].detach())}: inputs or "
                f"weights are not finite, or lr_meta = {self.lr_meta:g} is too large"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        accuracy = episode_accuracy(scores.detach(), episodes.query_targets, episodes.query_mask)
        return {"loss": float(loss.detach()), "accuracy": float(accuracy.mean())}

    def adapt(self, model: nn.Module, support: TensorData, steps: int | None) -> nn.Module:
        own, ways = of_task(support)
        if ways is None:
            raise DataError(_NO_CLASSES.format(self.origin))
        return Comparing(self, model, own, ways)

    @torch.no_grad()
    def predict(self, model: nn.Module, episodes: Episodes, steps: int | None) -> Tensor:
        self.check_episodes(episodes)
        mode = model.training
        model.eval()
        try:
            scores = self._compared(model, episodes)
        finally:
            model.train(mode)
        return scores if episodes.query_mask is None else torch.where(episodes.query_mask[:, :, None], scores, 0)

    def _compared(self, model: nn.Module, episodes: Episodes) -> Tensor:
        if episodes.ways is None:
            raise DataError(_NO_CLASSES.format(self.origin))
        members = functional.one_hot(episodes.support_targets, episodes.ways)
        if episodes.support_mask is not None:
            members = members * episodes.support_mask[:, :, None]
        # Padding never reaches the encoder: its batch normalisation sees the samples that there are
        sides = ((episodes.support_inputs, episodes.support_mask), (episodes.query_inputs, episodes.query_mask))
        real = [inputs.flatten(0, 1) if mask is None else inputs[mask] for inputs, mask in sides]
        features = forward(self._encoder(model), torch.cat(real)).split([len(some) for some in real])
        placed = []
        for own, (inputs, mask) in zip(features, sides, strict=True):
            if mask is not None:
                own = own.new_zeros(*mask.shape, *own.shape[1:]).index_put((mask,), own)
            placed.append(own.reshape(*inputs.shape[:2], *own.shape[own.ndim - features[0].ndim + 1 :]))
        return self._scores(model, placed[0], members.to(placed[0].dtype), placed[1])


_NO_CLASSES = "{}: episodes without classes (regression) cannot be learned by comparing features; use maml or reptile"


class Comparing(nn.Module):
    """A classifier for the task of one support set: inputs [N, …] to scores [N, ways]."""

    features: Tensor
    members: Tensor

    def __init__(self, learner: MetricLearner, model: nn.Module, support: TensorData, ways: int) -> None:
        super().__init__()
        self.model = copy_of(model)
        self.learner = learner
        self.eval()
        with torch.no_grad():
            features = forward(learner._encoder(self.model), support.inputs)
        self.register_buffer("features", features)
        self.register_buffer("members", functional.one_hot(support.targets, ways).to(features.dtype))

    def forward(self, inputs: Tensor) -> Tensor:
        query = forward(self.learner._encoder(self.model), inputs)
        return self.learner._scores(self.model, self.features[None], self.members[None], query[None])[0]


def class_sums(features: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """(sum of the features of each class [B, ways, …], how many there are [B, ways]) from [B, S, …], [B, S, ways]."""
    sums = torch.einsum("bsn,bsf->bnf", members, features.flatten(2))
    return sums.reshape(*sums.shape[:2], *features.shape[2:]), members.sum(1)
