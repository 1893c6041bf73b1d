"""Episodes: small tasks with a few labelled samples to adapt to (support) and others to be judged on (query)."""

from __future__ import annotations

import attrs
from torch import Tensor


@attrs.frozen(eq=False)
class Episodes:
    """A batch of B episodes of equal size; labels are relabelled 0..N-1 inside each.

    `support_inputs` [B, S, …], `support_targets` [B, S], `query_inputs` [B, Q, …], `query_targets` [B, Q];
    regression targets have [B, S, …]. `ways` is the number of classes N, or None for regression.
    """

    support_inputs: Tensor
    support_targets: Tensor
    query_inputs: Tensor
    query_targets: Tensor
    ways: int | None = None

    def __len__(self) -> int:
        return len(self.support_inputs)
