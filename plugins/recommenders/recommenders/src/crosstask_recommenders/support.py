"""What is known of users whom nobody has seen before: a few ratings each, of unequal number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from crosstask.errors import DataError
from crosstask_sources.interactions import Interactions

__all__ = ["Interactions", "Support", "padded"]


def padded(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(parts [N_b] of unequal lengths, [B, max N_b] with zeros behind, and where there is one, bool [B, max N_b])"""
    lengths = torch.tensor([len(part) for part in parts])
    mask = torch.arange(int(lengths.max()) if len(lengths) else 0) < lengths[:, None]
    made = parts[0].new_zeros(mask.shape)
    made[mask] = torch.cat(list(parts))
    return made, mask


@attrs.frozen(eq=False)
class Support:
    """Support ratings of B users: `items` [B, S] (ids; 0 is an unknown item), `ratings` [B, S] (1 of implicit
    feedback), `mask` [B, S]: which of them there are. DataError for shapes that differ, a rating that is not finite, a
    user without any.
    """

    items: Tensor
    ratings: Tensor
    mask: Tensor

    def __attrs_post_init__(self) -> None:
        shapes = {tuple(part.shape) for part in (self.items, self.ratings, self.mask)}
        if len(shapes) > 1 or self.items.ndim != 2:
            raise DataError(f"support: items, ratings and mask must be [B, S], got {sorted(shapes)}")
        empty = (~self.mask.any(1)).nonzero().flatten()
        if len(empty):
            raise DataError(f"user {int(empty[0])} of the batch has no support rating: one at least is needed")
        wrong = ~torch.isfinite(self.ratings) & self.mask
        if bool(wrong.any()):
            user, place = (int(each) for each in wrong.nonzero()[0])
            raise DataError(f"user {user} of the batch: support rating {place} is {float(self.ratings[user, place])}")

    @classmethod
    def of(cls, users: Sequence[tuple[Any, Any]]) -> Support:
        """From pairs (items, ratings) of each user, of unequal lengths; ratings None: implicit feedback."""
        items, ratings = [], []
        for number, (own, values) in enumerate(users):
            ids = torch.as_tensor(own)
            given = torch.ones(len(ids)) if values is None else torch.as_tensor(values, dtype=torch.get_default_dtype())
            if not len(ids):
                raise DataError(f"user {number} of the batch has no support rating: one at least is needed")
            if ids.is_floating_point() or ids.shape != given.shape or ids.ndim != 1:
                raise DataError(
                    f"user {number} of the batch: items are whole numbers [S] with a rating for each, got {ids.dtype} "
                    f"{list(ids.shape)} and ratings {list(given.shape)}"
                )
            items.append(ids.long())
            ratings.append(given)
        if not items:
            raise DataError("a batch of support ratings needs a user")
        (made, mask), (values, _) = padded(items), padded(ratings)
        return cls(made, values, mask)

    @classmethod
    def rows_of(cls, table: Interactions) -> Support:
        """All rows of each user of a table, users in rising order."""
        _, order, starts = table.by_user()
        parts = [order[a:b] for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]
        return cls.of([(table.item[rows], table.rating[rows]) for rows in parts])

    def __len__(self) -> int:
        return len(self.items)

    @property
    def counts(self) -> Tensor:
        """How many ratings each user has [B]."""
        return self.mask.sum(1)

    def first(self, count: int) -> Support:
        """The first ratings of each user, at most so many."""
        return Support(self.items[:, :count], self.ratings[:, :count], self.mask[:, :count])

    def take(self, rows: Any) -> Support:
        """These users."""
        return Support(self.items[rows], self.ratings[rows], self.mask[rows])
