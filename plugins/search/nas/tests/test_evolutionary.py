"""Ageing evolution: who can have children, and how they differ from their parents."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosstask_nas import Evolutionary, RandomSearch
from crosstask_nas.evolutionary import mutated
from crosstask_search.parameter import Parameter
from crosstask_search.records import Trial
from crosstask_search.space import SearchSpace

SPACE = SearchSpace(
    parameters={
        "layers": Parameter(choices=(1, 2, 3)),
        "width1": Parameter(choices=(4, 8, 16)),
        "width2": Parameter(choices=(4, 8, 16), when={"layers": (2, 3)}),
        "width3": Parameter(choices=(4, 8, 16), when={"layers": (3,)}),
        "rate": Parameter(low=0.0, high=1.0),
    },
    forbidden=({"width1": 4, "width2": 4},),
)


@given(st.integers(0, 2**32 - 1))
def test_a_mutant_differs_in_one_parameter_and_what_follows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    (parent,) = SPACE.sample(rng)
    child = mutated(SPACE, parent, rng)
    assert SPACE.check(child) == child
    changed = [name for name in parent if name in child and parent[name] != child[name]]
    assert len(changed) == 1
    if changed != ["layers"]:
        assert set(child) == set(parent)


def test_a_single_point_has_no_other_mutant() -> None:
    space = SearchSpace(parameters={"a": Parameter(choices=(1,))})
    assert mutated(space, {"a": 1}, np.random.default_rng(0)) == {"a": 1}


def history(values: list[float | None]) -> list[Trial]:
    """Trials of the points x = 0.3, 0.31, 0.32, …"""
    return [
        Trial(
            number=i, point={"x": 0.3 + i / 100, "y": 0.3 + i / 100}, status="failed" if v is None else "done", value=v
        )
        for i, v in enumerate(values)
    ]


def test_parents_are_the_best_of_the_youngest() -> None:
    """With a tournament of all, the parent is the best of the last five that are done, not the best there ever was."""
    space = SearchSpace(parameters={"x": Parameter(low=0.0, high=1.0), "y": Parameter(low=0.0, high=1.0)})
    trials = history([9.0, 1.0, None, 2.0, 5.0, 3.0, None, 4.0, 1.0])
    child = Evolutionary(population=5, tournament=5).propose(space, trials)
    assert (child["x"] == 0.3 + 0.04) != (child["y"] == 0.3 + 0.04)
    older = Evolutionary(population=7, tournament=7).propose(space, trials)
    assert (older["x"] == 0.3) != (older["y"] == 0.3)


def test_a_small_tournament_does_not_always_take_the_best() -> None:
    space = SearchSpace(parameters={"x": Parameter(low=0.0, high=1.0), "y": Parameter(low=0.0, high=1.0)})
    parents = set()
    for extra in range(30):
        trials = history([1.0] * extra + [2.0, 5.0, 3.0, 4.0])
        child = Evolutionary(population=4, tournament=2).propose(space, trials)
        parents |= {i - extra for i in range(extra, extra + 4) if 0.3 + i / 100 in (child["x"], child["y"])}
    assert parents == {1, 2, 3}  # never the worst of two


def test_random_proposals_until_the_population_is_full() -> None:
    trials = [
        Trial(number=i, point=p, status="done", value=1.0)
        for i, p in enumerate(SPACE.sample(np.random.default_rng(0), 4))
    ]
    seen = {SPACE.key(Evolutionary(population=5).propose(SPACE, trials[:k])) for k in range(5)}
    assert len(seen) == 5


def test_random_covers_the_space_evenly() -> None:
    space = SearchSpace(parameters={"a": Parameter(choices=tuple(range(4)))})
    trials = [Trial(number=0, point={"a": 2})]
    drawn = [RandomSearch().propose(space, [*trials, *([trials[0]] * k)])["a"] for k in range(300)]
    assert set(drawn) == {0, 1, 3}
    assert max(drawn.count(v) for v in (0, 1, 3)) == pytest.approx(100, abs=30)


def test_nobody_waits_for_failed_trials() -> None:
    """Five of twelve are done: with a population of twelve they have children, mutants of the best of them."""
    space = SearchSpace(parameters={"x": Parameter(low=0.0, high=1.0), "y": Parameter(low=0.0, high=1.0)})
    trials = history([None] * 7 + [1.0, 2.0, 5.0, 3.0, 4.0])
    child = Evolutionary(population=12, tournament=5).propose(space, trials)
    assert (child["x"] == 0.3 + 0.09) != (child["y"] == 0.3 + 0.09)
    few = Evolutionary(population=12, tournament=5).propose(space, history([None] * 8 + [1.0, 2.0, 5.0, 3.0]))
    assert few["x"] != 0.3 + 0.1  # not enough for a tournament: random
    assert few["y"] != 0.3 + 0.1
