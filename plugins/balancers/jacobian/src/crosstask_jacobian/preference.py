"""The option `preferences` that several methods share."""

from __future__ import annotations

import numpy as np

from crosstask.errors import RunError
from crosstask.learning.gradients.solvers import Array
from crosstask.points.balancer import Balancer


def preference_weights(balancer: Balancer, preferences: tuple[float, ...] | None, count: int) -> Array:
    """Weights [T] with sum 1; RunError if they are not as many as there are tasks."""
    if preferences is None:
        return np.full(count, 1 / count)
    if len(preferences) != count:
        raise RunError(f"{balancer.origin}: has {len(preferences)} preferences for {count} tasks")
    found = np.array(preferences)
    return found / found.sum()
