"""Relation networks."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import DataError
from crosstask.learning.episodes import Episodes
from crosstask.learning.modules import seeded
from crosstask.options import component, option
from crosstask_fewshot.metric import MetricLearner, class_sums
from crosstask_meta.heads import answer_of


class WithRelation(nn.Module):
    """An encoder, and a network that maps the features of a class and of a query, side by side, to one number."""

    def __init__(self, encoder: nn.Module, relation: nn.Module) -> None:
        super().__init__()
        self.encoder, self.relation = encoder, relation

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.encoder(inputs)
        return found


@component
class RelationNetwork(MetricLearner):
    """A network that learns the similarity itself: whether a query belongs to the class of some support samples.

    Sung et al. (2018), arXiv:1711.06025. A class is the sum of its features; the relation network is given it beside
    the query's features, and learns 1 for the right class and 0 for the others by least squares (equation 2). Features
    [C, H, W] go through two convolution blocks and two linear layers, flat ones through two linear layers. `prepare`
    puts that network beside the encoder. Scores are what the paper's sigmoid is applied to.
    """

    hidden: int = option(8, ge=1, help="width of the first linear layer (flat features: times eight)")

    def prepare(self, model: nn.Module, episodes: Episodes) -> nn.Module:
        if isinstance(model, WithRelation):
            return model
        features = answer_of(model, episodes.support_inputs[0])
        with seeded(self.context.seed_for("relation")):
            relation = self._relation(tuple(features.shape[1:]))
        return WithRelation(model, relation.to(features))

    def _relation(self, shape: tuple[int, ...]) -> nn.Module:
        if len(shape) == 1:
            wide = 8 * self.hidden
            return nn.Sequential(nn.Linear(2 * shape[0], wide), nn.ReLU(), nn.Linear(wide, 1))
        if len(shape) != 3:
            raise DataError(f"{self.origin}: features must have shape [F] or [C, H, W], got {list(shape)}")
        channels, height, width = shape
        layers: list[nn.Module] = []
        for before in (2 * channels, channels):
            layers += [nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
            if min(height, width) >= 2:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
        flat = channels * height * width
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1))

    def _encoder(self, model: nn.Module) -> nn.Module:
        if not isinstance(model, WithRelation):
            raise DataError(f"{self.origin}: the model has no relation network yet; give it to `prepare` first")
        return model.encoder

    def _scores(self, model: nn.Module, support: Tensor, members: Tensor, query: Tensor) -> Tensor:
        sums, _ = class_sums(support, members)
        count, queries, ways = *query.shape[:2], members.shape[2]
        shape = (count, queries, ways, *query.shape[2:])
        pairs = torch.cat([sums[:, None].expand(shape), query[:, :, None].expand(shape)], dim=3)
        scores: Tensor = cast(WithRelation, model).relation(pairs.flatten(0, 2))
        return scores.reshape(count, queries, ways)

    def _losses(self, scores: Tensor, targets: Tensor) -> Tensor:
        wanted = functional.one_hot(targets, scores.shape[2]).to(scores.dtype)
        return (torch.sigmoid(scores) - wanted).square().mean(2)
