"""Hill climbing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from crosstask.options import component, option
from crosstask_search import Search, SearchSpace, Trial


@component
class ExampleSearch(Search):
    """Draws one parameter of the best point so far anew, or the whole point with probability `restart`."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"no_repeats"})

    restart: float = option(0.2, ge=0, le=1, help="how often a point has nothing to do with the best")

    def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
        rng = np.random.default_rng(self.context.seed_for("climb", len(trials)))
        tried = {space.key(trial.point) for trial in trials}
        done = [trial for trial in trials if trial.value is not None]
        if done and rng.random() > self.restart:
            best = max(done, key=lambda trial: trial.value or 0.0).point
            for _ in range(50):
                changed = list(best)[rng.integers(len(best))]
                point = space.complete({name: best[name] for name in best if name != changed}, rng)
                if space.allows(point) and space.key(point) not in tried:
                    return point
        return space.fresh(rng, tried)
