"""The `evolutionary` search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from crosstask.options import component, option
from crosstask_search.contract import Search
from crosstask_search.records import Trial
from crosstask_search.space import Point, SearchSpace

STEP = 0.15
"""Standard deviation of a mutation of a real number, as a share of its range."""


@component
class Evolutionary(Search):
    """Regularised evolution (Real et al. 2019, algorithm 1): the population is the `population` youngest trials that
    are done; of `tournament` of them, drawn at random, the best has a child, which differs from it in one parameter.
    The oldest dies, however good it is: what only was lucky does not stay.

    Until `population` trials have ended, and enough of them for a tournament are done, proposals are random: failed
    trials have no children, but nobody waits for as many others in their place. No point is proposed twice while others
    are left: a child that exists already is mutated once more.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"no_repeats"})
    results_version: ClassVar[int] = 2

    population: int = option(20, ge=2, help="how many trials can have children")
    tournament: int = option(5, ge=1, help="how many of them compete to have the next")

    @property
    def blind(self) -> float:
        return self.population

    def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
        rng = np.random.default_rng(self.context.seed_for("evolutionary", len(trials)))
        tried = {space.key(trial.point) for trial in trials}
        alive = [trial for trial in trials if trial.value is not None][-self.population :]
        ended = sum(trial.status != "running" for trial in trials)
        if ended < self.population or len(alive) < min(self.tournament, self.population):
            return space.fresh(rng, tried)
        drawn = rng.choice(len(alive), size=min(self.tournament, len(alive)), replace=False)
        child = max((alive[i] for i in drawn), key=lambda trial: trial.value or 0.0).point
        for _ in range(50):
            child = mutated(space, child, rng)
            if space.key(child) not in tried:
                return child
        return space.fresh(rng, tried)


def mutated(space: SearchSpace, point: Mapping[str, Any], rng: np.random.Generator) -> Point:
    """A valid point that differs from `point` in one parameter and in those that follow from it: another value of
    those that can be listed, a step of a real number.

    The point itself if a hundred tries find no other.
    """
    names = [name for name in point if space.parameters[name].size != 1]
    for _ in range(100 if names else 0):
        name = names[rng.integers(len(names))]
        parameter = space.parameters[name]
        real = parameter.size is None
        value = parameter.at(parameter.place(point[name]) + rng.normal(0, STEP) if real else rng.random())
        child = space.complete({**point, name: value}, rng)
        if value != point[name] and space.allows(child):
            return child
    return dict(point)
