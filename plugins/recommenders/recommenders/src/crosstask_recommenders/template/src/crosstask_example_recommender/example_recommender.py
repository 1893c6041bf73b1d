"""The mean of a user."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from crosstask.options import component, option
from crosstask_recommenders import Interactions, Recommender, Support, check_items


class Mean(nn.Module):
    """The mean rating of all users, and how many items there are."""

    def __init__(self, mean: Tensor, items: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("items", torch.tensor(items))
        self.eval()


@component
class ExampleRecommender(Recommender):
    """Expects of every item the mean of the user's ratings, drawn toward the mean of all users."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"explicit"})

    shrink: float = option(3.0, ge=0, help="so many ratings of all users stand behind those of one")

    def fit(self, interactions: Interactions) -> nn.Module:
        self.check_feedback(interactions)
        return Mean(interactions.rating.mean(), interactions.items)

    def score(self, model: nn.Module, support: Support, items: Tensor) -> Tensor:
        for asked in (items, support.items[support.mask]):
            check_items(asked, int(model.items), self.origin)
        sums = torch.where(support.mask, support.ratings, 0.0).sum(1) + self.shrink * model.mean
        return (sums / (support.counts + self.shrink))[:, None].expand(items.shape).clone()
