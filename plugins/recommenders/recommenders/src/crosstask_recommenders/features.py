"""What describes an item to a recommender that learns from users as tasks: numbers made of the training users alone."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from crosstask_recommenders.factors import Factors, fit_explicit, fit_implicit, without_own
from crosstask_recommenders.support import Interactions


@attrs.frozen(eq=False)
class ItemTable:
    """`features` [items + 1, F] and `prior` [items + 1] (what is expected of whoever comes: a rating; of implicit
    feedback 0) of every item, and the same of the item of each training row, [N, F] and [N], made without that row.
    """

    features: Tensor
    prior: Tensor
    own_features: Tensor
    own_prior: Tensor


def item_table(
    table: Interactions, factors: int, generator: torch.Generator, *, user_decay: float = 5.0, item_decay: float = 5.0,
    weight: float = 10.0, sweeps: int = 10,
) -> ItemTable:  # fmt: skip
    """Features of items: the factors of a factorisation of the training table, its bias, the logarithm of how often the
    item is rated, and what side information the table has; each standardised over the rows; zeros for item 0.

    An item's factors hold the ratings that they were learned from. Features of training rows are made without the row,
    so that training sees them as they are for a new user.
    """
    implicit = table.feedback == "implicit"
    found = (
        fit_implicit(table, factors, user_decay, item_decay, weight, sweeps, generator)
        if implicit
        else fit_explicit(table, factors, user_decay, item_decay, sweeps, generator)
    )
    counts = table.counts("item").double()
    own = without_own(table, found, item_decay)
    every = _features(found.item, counts, table.item_features)
    side = None if table.item_features is None else table.item_features[table.item]
    rows = _features(own, counts[table.item] - 1, side)
    mean, spread = rows.mean(0), rows.std(0, correction=0)
    spread = torch.where(spread > 1e-6, spread, 1.0)
    every = (every - mean) / spread
    every[0] = 0  # what is not known is like the average row
    kind = torch.get_default_dtype()
    prior, own_prior = (found.offset + values[:, 0] for values in (found.item, own))
    return ItemTable(every.to(kind), prior.to(kind), ((rows - mean) / spread).to(kind), own_prior.to(kind))


def _features(vectors: Tensor, counts: Tensor, side: Tensor | None) -> Tensor:
    parts = [vectors, torch.log1p(counts)[:, None], *([] if side is None else [side.double()])]
    return torch.cat(parts, dim=1)


__all__ = ["Factors", "ItemTable", "item_table"]
