"""Means: of everything, of an item, of a user."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from crosstask.options import component, option
from crosstask_baseline_recommenders.fitted import Fitted
from crosstask_recommenders import Interactions, Recommender, Support


def _item_means(table: Interactions, shrink: float) -> tuple[float, Tensor]:
    """(the mean of all, how far each item's shrunk mean lies from it [items + 1, 1])"""
    rating = table.rating.double()
    mean = rating.mean()
    sums = torch.zeros(table.items + 1, dtype=torch.float64).index_add(0, table.item, rating - mean)
    away = sums / (table.counts("item") + shrink)
    away[0] = 0
    return float(mean), away[:, None]


@component
class GlobalMean(Recommender):
    """The mean of all ratings, whoever the user and whatever the item."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"explicit", "baseline"})

    def fit(self, interactions: Interactions) -> nn.Module:
        self.check_feedback(interactions)
        zeros = torch.zeros(interactions.items + 1, 1)
        return Fitted(zeros, float(interactions.rating.double().mean()))

    def score(self, model: nn.Module, support: Support, items: Tensor) -> Tensor:
        made = cast(Fitted, model)
        made.checked(support, items, self.origin)
        return made.bias[items] + made.get_buffer("offset")


@component
class ItemMean(Recommender):
    """The mean of an item's ratings, drawn toward the mean of all as if `shrink` ratings more were there."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"explicit", "baseline"})

    shrink: float = option(5.0, gt=0, help="mean ratings behind those of an item")

    def fit(self, interactions: Interactions) -> nn.Module:
        self.check_feedback(interactions)
        mean, away = _item_means(interactions, self.shrink)
        return Fitted(away, mean)

    def score(self, model: nn.Module, support: Support, items: Tensor) -> Tensor:
        made = cast(Fitted, model)
        made.checked(support, items, self.origin)
        return made.bias[items] + made.get_buffer("offset")


@component
class UserMean(Recommender):
    """The mean of the user's support ratings, drawn toward the mean of all as if `shrink` ratings more were there.

    With `item_means` of how far they lie from those of their items, to which it is added: μ + b_i + b_u.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"explicit", "baseline"})

    shrink: float = option(3.0, gt=0, help="mean ratings behind those of a user")
    item_means: bool = option(False, help="count from the items' shrunk means")
    item_shrink: float = option(5.0, gt=0, help="mean ratings behind those of an item")

    def fit(self, interactions: Interactions) -> nn.Module:
        self.check_feedback(interactions)
        mean, away = _item_means(interactions, self.item_shrink)
        return Fitted(away if self.item_means else torch.zeros_like(away), mean)

    def score(self, model: nn.Module, support: Support, items: Tensor) -> Tensor:
        made = cast(Fitted, model)
        made.checked(support, items, self.origin)
        expected = made.bias + made.get_buffer("offset")
        left = torch.where(support.mask, support.ratings - expected[support.items], 0.0).sum(1)
        return expected[items] + (left / (support.counts + self.shrink))[:, None]
