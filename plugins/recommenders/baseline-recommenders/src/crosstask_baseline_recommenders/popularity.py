"""What most people have."""

from __future__ import annotations

from typing import ClassVar, cast

from torch import Tensor, nn

from crosstask.options import component
from crosstask_baseline_recommenders.fitted import Fitted
from crosstask_recommenders import Interactions, Recommender, Support


@component
class Popularity(Recommender):
    """The share of the rows that are of an item: the same order for every user. Many a model does not beat it."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"implicit", "baseline"})

    def fit(self, interactions: Interactions) -> nn.Module:
        self.check_feedback(interactions)
        return Fitted(interactions.counts("item")[:, None] / len(interactions))

    def score(self, model: nn.Module, support: Support, items: Tensor) -> Tensor:
        made = cast(Fitted, model)
        made.checked(support, items, self.origin)
        return made.bias[items]
