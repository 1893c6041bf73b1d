"""Orders of tasks on the way to a target, from what is predicted of them."""

from __future__ import annotations

import enum

import numpy as np

from crosstask.errors import DataError, nearest
from crosstask.records import CurriculumStrategy
from crosstask_gnn.pairs import Array


def ordered(
    strategy: str | enum.Enum | None, mean: Array, spread: Array, difficulty: Array, target: int, chosen: list[int]
) -> list[int]:
    """The tasks `chosen` in the order of a strategy, what matters most last, nearest the target.

    `mean` and `spread` [source, target] are coefficients and how unsure they are, `difficulty` [n]. The strategies are
    those of `CurriculumStrategy`: the easiest first (also for `adaptive_difficulty`, which adapts while it runs); by
    coefficient; by coefficient plus spread (Auer 2002); by maximal marginal relevance (Carbonell and Goldstein 1998,
    section 2: half the coefficient, less half the likeness to the nearest task that was chosen already, which is their
    mean coefficient both ways). Equal ones in the order of their numbers. DataError for another strategy.
    """
    gain = mean[:, target]
    match _named(strategy):
        case CurriculumStrategy.TRANSFER_POTENTIAL:
            return sorted(chosen, key=lambda task: (gain[task], task))
        case CurriculumStrategy.UNCERTAINTY_DRIVEN:
            return sorted(chosen, key=lambda task: (gain[task] + spread[task, target], task))
        case CurriculumStrategy.DIVERSE_SAMPLING:
            likeness, taken = (mean + mean.T) / 2, list[int]()
            nearest_taken = dict.fromkeys(chosen, 0.0)
            while nearest_taken:
                best = min(nearest_taken, key=lambda task: (nearest_taken[task] - gain[task], task))
                del nearest_taken[best]
                for task, known in nearest_taken.items():
                    nearest_taken[task] = max(known, float(likeness[task, best])) if taken else likeness[task, best]
                taken.append(best)
            return taken[::-1]
        case _:
            return sorted(chosen, key=lambda task: (difficulty[task], task))


def novelty(embeddings: Array) -> Array:
    """[n, n] 1 - the largest cosine of the source's embedding with another task's: how little is known of its like.
    It stands for a standard error where there is one network, which has none.
    """
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -1.0)
    found: Array = np.repeat(1 - cosine.max(axis=1, keepdims=True), len(embeddings), axis=1)
    return found


def _named(strategy: str | enum.Enum | None) -> CurriculumStrategy:
    if strategy is None:
        return CurriculumStrategy.EASY_TO_HARD
    name = strategy.value if isinstance(strategy, enum.Enum) else strategy
    known = {member.value: member for member in CurriculumStrategy}
    if name not in known:
        raise DataError(f"no curriculum strategy {name!r}{nearest(str(name), known)}")
    return known[name]
