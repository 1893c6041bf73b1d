"""The `random` search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from crosstask.options import component
from crosstask_search.contract import Search
from crosstask_search.records import Trial
from crosstask_search.space import SearchSpace


@component
class RandomSearch(Search):
    """Random valid points, none twice while others are left: the control that every other search has to beat."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"no_repeats"})

    @property
    def blind(self) -> float:
        return math.inf

    def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
        rng = np.random.default_rng(self.context.seed_for("random", len(trials)))
        return space.fresh(rng, {space.key(trial.point) for trial in trials})
