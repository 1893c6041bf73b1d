"""For methods that take logarithms of losses."""

from __future__ import annotations

from torch import Tensor

from crosstask.errors import RunError


def positive(losses: Tensor, origin: str) -> Tensor:
    """The losses in float64; RunError unless all are positive."""
    values = losses.detach().double()
    if not bool((values > 0).all()):
        raise RunError(f"{origin}: losses must be positive, got {values.tolist()}")
    return values
