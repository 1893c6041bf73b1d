"""The gradients that lie among the others."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from crosstask import component, option
from crosstask.errors import DataError
from crosstask.learning.gradients import TaskGradients
from crosstask.learning.gradients.solvers import Array, gram_array, to_tensor
from crosstask.points.balancer import Balancer


@component
class Krum(Balancer):
    """The gradient with the nearest neighbours, or the mean of the `selected` nearest ones (Multi-Krum).

    Of T gradients f may be arbitrarily wrong (`byzantine`). The score of g_i is the sum of its squared distances to the
    T - f - 2 gradients that are nearest to it; those with the smallest scores are taken, of equal ones the first. The
    distances are those in the Gram matrix, |g_i|² + |g_j|² - 2 g_i·g_j. Nothing else of a gradient counts, so this is
    for tasks that should agree: views of one, sites of one study, annotators.

    DataError for fewer than f + 3 tasks, or fewer than `selected`. The paper's bound needs T > 2f + 2, and f is the
    largest of which that is true if it is not given: (T - 3) // 2.

    Source: Blanchard, El Mhamdi, Guerraoui, Stainer 2017, *Machine Learning with Adversaries: Byzantine Tolerant
    Gradient Descent*, NeurIPS, section 4 (TorchJD adds up distances, not their squares).
    """

    least_tasks: ClassVar[int] = 3
    capabilities: ClassVar[frozenset[str]] = frozenset({"scale_equivariant", "convex_weights"})

    byzantine: int | None = option(
        None, help="how many of the gradients may be wrong; as many as the bound allows if not given", ge=0
    )
    selected: int = option(1, help="how many of the gradients are averaged", ge=1)

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
        count = gradients.tasks
        wrong = (count - 3) // 2 if self.byzantine is None else self.byzantine
        least = max(wrong + 3, self.selected)
        if count < least:
            raise DataError(
                f"{self.origin}: with {wrong} gradients that may be wrong and {self.selected} selected it needs at "
                f"least {least} tasks, got {count}"
            )
        chosen = np.argsort(scores(gram_array(gradients), count - wrong - 2), kind="stable")[: self.selected]
        weights = np.zeros(count)
        weights[chosen] = 1 / self.selected
        return to_tensor(weights, losses)


def scores(gramian: Array, nearest: int) -> Array:
    """For each gradient the sum [T] of its squared distances to so many nearest others."""
    squares = gramian.diagonal()
    distances = np.maximum(squares[:, None] + squares - 2 * gramian, 0.0)
    np.fill_diagonal(distances, np.inf)
    return np.asarray(np.sort(distances, axis=1)[:, :nearest].sum(axis=1))
