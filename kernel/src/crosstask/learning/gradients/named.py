"""What a balancer keeps for each task, by the task's name: steps may have other tasks, or the same in another order.

State is a dict by name that is replaced, never changed: a state that somebody took stays what it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from crosstask.errors import RunError, nearest
from crosstask.learning.gradients.solvers import Array

if TYPE_CHECKING:
    from crosstask.learning.gradients.base import TaskGradients

Kept = dict[str, float]
"""A number for each task."""


def names_of(origin: str, gradients: TaskGradients, kept: Mapping[str, object]) -> tuple[str, ...]:
    """The names of the tasks of this step. RunError where nobody has named them and they are not as many as those of
    whom something is kept: which of these they are cannot be known.
    """
    if kept and not gradients.named and set(kept) != set(gradients.names):
        raise RunError(
            f"{origin}: remembers {len(kept)} tasks, was given {gradients.tasks}; balance the same tasks in every "
            "step, or name them: give the losses as a mapping"
        )
    return gradients.names


def kept_of(kept: Mapping[str, float], names: Sequence[str], fresh: float = 0.0) -> Array:
    """The numbers [T] of these tasks; `fresh` for one that is new."""
    return np.array([kept.get(name, fresh) for name in names], dtype=np.float64)


def with_kept(kept: Mapping[str, float], names: Sequence[str], values: Array) -> Kept:
    """What is kept, with the numbers [T] of these tasks; the others keep theirs."""
    return {**kept, **dict(zip(names, values.tolist(), strict=True))}


LOST = 1e-3
"""What the tasks of a step weigh at least, each in parts of a mean task's weight: all of them may have lost theirs to
tasks that are not in this step."""


def shares_of(kept: Mapping[str, float], names: Sequence[str]) -> Array:
    """Convex weights [T] of these tasks, from weights that are kept as multiples of a mean task's; a new task's is 1.

    Evenly where none of them has any weight left.
    """
    values = kept_of(kept, names, 1.0)
    total = values.sum()
    return values / total if total > 0 else np.full(len(names), 1 / len(names))


def with_shares(kept: Mapping[str, float], names: Sequence[str], shares: Array) -> Kept:
    """What is kept, with new convex weights [T] of these tasks: they divide among them what they had together."""
    total = max(kept_of(kept, names, 1.0).sum(), LOST * len(names))
    return with_kept(kept, names, shares * total)


def rows_of(kept: Mapping[str, Tensor], names: Sequence[str]) -> list[Tensor | None]:
    """The gradients [D] that are kept of these tasks; None for one that is new."""
    return [kept.get(name) for name in names]


def with_rows(kept: Mapping[str, Tensor], names: Sequence[str], matrix: Tensor) -> dict[str, Tensor]:
    """What is kept, with the rows of `matrix` [T, D] of these tasks. The matrix must be nobody else's."""
    own = dict(zip(names, matrix.unbind(0), strict=True))
    if len(own) < len(kept.keys() | own):  # a row of it would hold all of it in memory while its task is away
        own = {name: row.clone() for name, row in own.items()}
    return {**kept, **own}


def stacked(rows: Sequence[Tensor | None], matrix: Tensor) -> Tensor:
    """A new matrix [T, D] of rows that are kept, and of those of `matrix` where there are none."""
    return torch.stack([matrix[n] if row is None else row.to(matrix) for n, row in enumerate(rows)])


def given_to(origin: str, option: str, given: Sequence[float] | Mapping[str, float], gradients: TaskGradients) -> Array:
    """The numbers [T] that an option gives the tasks: by name, or one for each in their order.

    RunError if a name is missing, or if they are not as many as the tasks of this step.
    """
    names = gradients.names
    if isinstance(given, Mapping):
        if missing := [name for name in names if name not in given]:
            raise RunError(f"{origin}: {option} has no number for task {missing[0]!r}{nearest(missing[0], given)}")
        return np.array([given[name] for name in names], dtype=np.float64)
    if len(given) != len(names):
        raise RunError(
            f"{origin}: {option} has {len(given)} numbers for {len(names)} tasks; where steps have other tasks, name "
            "them: a table of numbers by task"
        )
    return np.array(given, dtype=np.float64)
