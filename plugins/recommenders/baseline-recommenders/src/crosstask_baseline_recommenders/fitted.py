"""What a fitted baseline keeps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask_recommenders import Support, check_items


class Fitted(nn.Module):
    """Vectors of items [items + 1, 1 + d], bias first, and what a new user's part is made with."""

    item: Tensor

    def __init__(
        self, item: Tensor, offset: float = 0.0, decay: float = 0.0, weight: float = 0.0, bias_decay: float = 0.0
    ) -> None:
        super().__init__()
        kind = torch.get_default_dtype()
        self.register_buffer("item", item.to(kind))
        for name, value in (("offset", offset), ("decay", decay), ("weight", weight), ("bias_decay", bias_decay)):
            self.register_buffer(name, torch.tensor(value, dtype=kind))
        self.eval()

    @property
    def bias(self) -> Tensor:
        """Of each item [items + 1]."""
        return self.item[:, 0]

    def checked(self, support: Support, items: Tensor, who: str) -> None:
        """DataError for an item that it was not fitted to, or items of other users than the support's."""
        if items.ndim != 2 or len(items) != len(support):
            raise DataError(f"{who}: items must be [{len(support)}, K], one row for each user, got {list(items.shape)}")
        for asked in (items, support.items[support.mask]):
            check_items(asked, len(self.item) - 1, who)
