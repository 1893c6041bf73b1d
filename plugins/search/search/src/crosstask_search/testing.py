"""For tests of searches: the smallest right one, and a registry's plugin with it and the stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from crosstask.manifest import Extension, Plugin
from crosstask.options import component
from crosstask_search.contract import Search
from crosstask_search.plugin import PLUGIN
from crosstask_search.records import Trial
from crosstask_search.space import SearchSpace


@component
class ReferenceSearch(Search):
    """Random points that were not tried yet."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"no_repeats"})

    @property
    def blind(self) -> float:
        return math.inf

    def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
        rng = np.random.default_rng(self.context.seed_for("propose", len(trials)))
        return space.fresh(rng, {space.key(trial.point) for trial in trials})


REFERENCE = Plugin(
    name="reference-search",
    api=(2, 0),
    points=PLUGIN.points,
    extensions=[
        *(offer for offer in PLUGIN.extensions if offer.point == "stage"),
        Extension(
            "search", "reference", "crosstask_search.testing:ReferenceSearch", summary="For checks.", default=True
        ),
    ],
)
"""For a registry of references: `crosstask.testing.reference_registry(REFERENCE)`."""
