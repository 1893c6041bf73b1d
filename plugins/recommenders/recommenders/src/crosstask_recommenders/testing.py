"""What tests of recommenders share: a small table with known structure, and the smallest right recommender."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.manifest import Extension, Plugin
from crosstask.options import component, option
from crosstask.tasks import Portfolio
from crosstask_recommenders.contract import Recommender, check_items
from crosstask_recommenders.plugin import PLUGIN
from crosstask_recommenders.support import Interactions, Support

ITEMS = 12


def planted(feedback: str = "explicit", users: int = 30, seed: int = 0, share: float = 0.7) -> Interactions:
    """Ratings 1 to 5 of twelve items: two tastes, which like one half of the items each, and a mean of each user.

    Of implicit feedback what was rated 3 or more. Every user has two rows at least.
    """
    generator = torch.Generator().manual_seed(seed)
    taste = torch.randint(0, 2, (users, 1), generator=generator) * 2 - 1
    side = (torch.arange(ITEMS) % 2) * 2 - 1
    level = 0.5 * torch.randn(users, 1, generator=generator)
    ratings = (3 + 1.3 * taste * side + level + 0.4 * torch.randn(users, ITEMS, generator=generator)).clamp(1, 5)
    there = torch.rand(users, ITEMS, generator=generator) < share
    if feedback == "implicit":
        there &= ratings >= 3
    there |= ratings >= ratings.sort(dim=1, descending=True).values[:, 1:2]
    user, item = there.nonzero(as_tuple=True)
    values = ratings[there] if feedback == "explicit" else None
    return Interactions.of(user + 1, item + 1, values, users=users, items=ITEMS)


def planted_portfolio(users: int = 40) -> Portfolio:
    """The table as tasks `rating` and `liked` (whether it is 3 or more)."""
    table = planted(users=users, share=0.9)
    rows = table.split(0.1, 0.2)
    return Portfolio.from_table(
        MultiInput({"user_ids": table.user, "item_ids": table.item}),
        {"rating": table.rating, "liked": (table.rating >= 3).long()},
        descriptors={
            "rating": TaskDescriptor(task_id="rating", task_type="regression", output_dim=1),
            "liked": TaskDescriptor(task_id="liked", output_dim=1),
        },
        splits=rows,
        name="planted",
    )


class Levels(nn.Module):
    """What is expected of each item [items + 1]."""

    expected: Tensor

    def __init__(self, expected: Tensor) -> None:
        super().__init__()
        self.register_buffer("expected", expected)
        self.eval()


@component
class ReferenceRecommender(Recommender):
    """The mean of the item's ratings, moved by how far the user's lie from those of their items; how often an item is
    taken, of implicit feedback.
    """

    capabilities = frozenset({"explicit", "implicit", "baseline"})

    shrink: float = option(2.0, gt=0, help="ratings behind a mean")

    def fit(self, interactions: Interactions) -> nn.Module:
        self.check_feedback(interactions)
        counts = interactions.counts("item").to(interactions.rating.dtype)
        if interactions.feedback == "implicit":
            return Levels(counts / counts.sum())
        mean = interactions.rating.mean()
        sums = torch.zeros_like(counts).index_add(0, interactions.item, interactions.rating - mean)
        return Levels(mean + sums / (counts + self.shrink))

    def score(self, model: nn.Module, support: Support, items: Tensor) -> Tensor:
        expected: Tensor = model.get_buffer("expected")
        check_items(items, len(expected) - 1, self.origin)
        check_items(support.items[support.mask], len(expected) - 1, self.origin)
        away = torch.where(support.mask, support.ratings - expected[support.items], 0.0).sum(1)
        return expected[items] + (away / (support.counts + self.shrink))[:, None]


REFERENCE = Plugin(
    "reference-recommenders",
    api=(2, 0),
    points=PLUGIN.points,
    extensions=[
        *(offer for offer in PLUGIN.extensions if offer.point == "stage"),
        Extension("recommender", "reference", f"{__name__}:ReferenceRecommender", summary="For checks.", default=True),
    ],
)
"""For a registry of references: `crosstask.testing.reference_registry(REFERENCE)`."""
