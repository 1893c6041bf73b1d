"""What sources of tasks share: files as columns, tables of interactions, how hard a task is, random numbers, names."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_sources.difficulty import nearest_mean_difficulty
    from crosstask_sources.interactions import Interactions
    from crosstask_sources.names import check_names
    from crosstask_sources.randomness import rng_for

__all__ = ["Interactions", "check_names", "nearest_mean_difficulty", "rng_for"]

__getattr__ = lazily(
    __name__,
    {
        "Interactions": "interactions",
        "check_names": "names",
        "nearest_mean_difficulty": "difficulty",
        "rng_for": "randomness",
    },
)
