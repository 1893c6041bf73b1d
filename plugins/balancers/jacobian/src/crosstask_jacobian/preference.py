"""The option `preferences` that several methods share."""

from __future__ import annotations

import numpy as np

from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.named import given_to
from crosstask.learning.gradients.solvers import Array
from crosstask.points.balancer import Balancer

Preferences = tuple[float, ...] | dict[str, float] | None
"""A number for each task, in their order or by name; None for equal ones."""


def preference_weights(balancer: Balancer, preferences: Preferences, gradients: TaskGradients) -> Array:
    """Weights [T] with sum 1; RunError if they are not those of the tasks."""
    if preferences is None:
        return np.full(gradients.tasks, 1 / gradients.tasks)
    found = given_to(balancer.origin, "preferences", preferences, gradients)
    return found / found.sum()
