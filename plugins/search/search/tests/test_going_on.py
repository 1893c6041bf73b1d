"""A search that was stopped, or that goes on for longer, comes to what it would have come to at once."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import attrs
import numpy as np
import pytest

from crosstask.components import Job, run_now
from crosstask.context import LocalContext
from crosstask.learning.transferring import key_of
from crosstask.options import component, option
from crosstask.points.executor import Executor
from crosstask.points.store import Store
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.store import open_store
from crosstask_search.contract import Search
from crosstask_search.driver import run_search
from crosstask_search.objective import Judgement, Several
from crosstask_search.parameter import Parameter
from crosstask_search.records import SearchResult, Trial
from crosstask_search.space import SearchSpace
from crosstask_search.testing import ReferenceSearch

LINE = SearchSpace(parameters={"x": Parameter(low=0.0, high=1.0)})
COUNT = 14


@component
class Looks(Search):
    """Proposes by all that it is shown and by all that it has observed, after `first` blind ones."""

    first: int = option(0, ge=0, help="how many")
    observed: list[int] = attrs.field(init=False, factory=list)

    @property
    def blind(self) -> float:
        return self.first

    def search_begins(self, space: SearchSpace, task: Any, models: Any) -> None:
        self.observed = []

    def observe(self, trial: Trial) -> None:
        self.observed.append(trial.number)

    def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
        seen: Any = [(t.number, t.point, t.status, t.value) for t in trials], self.observed
        told = len(trials) if len(trials) < self.first else repr(seen)
        return space.fresh(np.random.default_rng(self.context.seed_for("looks", told)), set())


class Alone:
    """Some number of a point; stops at a call."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls, self.stop_at = 0, stop_at

    def __call__(self, point: dict[str, Any]) -> float:
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        if int(10 * point["x"]) % 3 == 1:
            raise ValueError("it is not served")
        return math.sin(9 * point["x"])


class InHalves(Alone, Several):
    """The same of the points of one half at once."""

    def groups(self, points: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        halves = [[i for i, point in enumerate(points) if (point["x"] > 0.5) == above] for above in (True, False)]
        return [places for places in halves if len(places) > 1]

    def together(self, points: Sequence[Mapping[str, Any]]) -> list[Judgement]:
        found: list[Judgement] = []
        for point in points:
            try:
                found.append((self(dict(point)), None))
            except ValueError as error:
                found.append((None, f"ValueError: {error}"))
        return found


def told(result: SearchResult) -> Any:
    return [(t.number, t.point, t.status, t.value, t.error) for t in result.trials], result.curve


def searched(store: Store | None, search: Search, objective: Any, count: int = COUNT, **options: Any) -> SearchResult:
    """In a run of its own, as another process would."""
    with Run(Registry(), seed=3, store=store, executor=options.pop("executor", None)) as run:
        return run_search(run, search, LINE, objective, count, key="line", **options)


@pytest.fixture
def kept() -> Iterator[Callable[[], Store]]:
    """Makes stores."""
    with contextlib.ExitStack() as stores:
        yield lambda: stores.enter_context(contextlib.closing(open_store(":memory:")))


@pytest.mark.parametrize("objective", [Alone, InHalves])
@pytest.mark.parametrize(("parallel", "first"), [(1, 3), (4, 0), (4, 3), (4, 50)])
def test_a_search_goes_on_as_if_it_had_not_been_stopped(
    objective: type[Alone], parallel: int, first: int, kept: Callable[[], Store]
) -> None:
    """Wherever in a round it was stopped."""
    whole = told(searched(None, Looks(first=first), objective(), parallel=parallel))
    assert len(whole[0]) == COUNT
    assert {trial[2] for trial in whole[0]} == {"done", "failed"}
    for stop_at in range(1, COUNT + 1):
        store = kept()
        with pytest.raises(KeyboardInterrupt):
            searched(store, Looks(first=first), objective(stop_at), parallel=parallel)
        assert told(searched(store, Looks(first=first), objective(), parallel=parallel)) == whole, stop_at


@pytest.mark.parametrize("objective", [Alone, InHalves])
def test_a_search_that_goes_on_for_longer_is_the_longer_one(objective: type[Alone], kept: Callable[[], Store]) -> None:
    """Both with what a store kept and with the trials that are given."""
    whole = told(searched(None, Looks(first=3), objective(), parallel=4))
    for count in range(1, COUNT):
        store, again = kept(), objective()
        shorter = searched(store, Looks(first=3), objective(), count, parallel=4)
        assert told(searched(store, Looks(first=3), again, parallel=4)) == whole, count
        assert again.calls == COUNT - count  # none is evaluated again
        given = searched(None, Looks(first=3), objective(), parallel=4, trials=shorter.trials)
        assert told(given) == whole, count


def test_a_round_is_the_same_for_one_objective_as_for_several_at_once() -> None:
    """Also where as many at once do not divide the blind ones, and without a run."""
    found = [told(searched(None, Looks(first=5), made(), parallel=3)) for made in (Alone, InHalves)]
    local = run_search(LocalContext(seed=3), Looks(first=5), LINE, Alone(), COUNT, parallel=3)
    assert found[0] == found[1] == told(local)


@pytest.mark.parametrize(("before", "after"), [(4, 1), (1, 4), (4, 3)])
def test_another_number_at_once_takes_up_blind_trials_alone(before: int, after: int, kept: Callable[[], Store]) -> None:
    fresh, objective, store = told(searched(None, Looks(first=3), InHalves(), parallel=after)), InHalves(), kept()
    searched(store, Looks(first=3), InHalves(), parallel=before)
    assert told(searched(store, Looks(first=3), objective, parallel=after)) == fresh
    assert objective.calls == COUNT - 3


@pytest.mark.parametrize(("parallel", "same"), [(1, COUNT), (4, 3), (np.int64(4), 3)])
def test_trials_one_at_a_time_and_blind_ones_keep_their_keys(parallel: int, same: int) -> None:
    """A store that was made before the number at once counted is found."""
    context, search = LocalContext(seed=3), Looks(first=3)
    run_search(context, search, LINE, Alone(), COUNT, key="line", parallel=parallel)
    keys = [key_of("trial", "line", LINE, search.identity(), 3, number, []) for number in range(COUNT)]
    found = [number for number, key in enumerate(keys) if context.recall("trials", key) is not None]
    assert found == list(range(same))


@component
class AtOnce(Executor):
    """Says that it has several workers."""

    workers: int = option(2, ge=1, help="how many")

    def submit(self, job: Job) -> Future[Any]:
        return run_now(job)

    def capacity(self) -> int:
        return self.workers


def test_several_workers_go_on_from_what_any_number_and_one_at_a_time_came_to(kept: Callable[[], Store]) -> None:
    store, alone = kept(), kept()
    found = told(searched(store, Looks(), Alone(), executor=AtOnce()))
    again = Alone()
    assert told(searched(store, Looks(), again, executor=AtOnce(workers=3))) == found
    assert again.calls == 0
    # one worker has points of its own, which do not depend on what several came to
    in_turn = told(searched(store, Looks(), again))
    assert again.calls == COUNT
    assert in_turn == told(searched(alone, Looks(), Alone())) != found
    assert told(searched(alone, Looks(), again, executor=AtOnce())) == in_turn
    assert again.calls == COUNT


@component
class Late(AtOnce):
    """Does not come to the third job before it is stopped at the tenth."""

    submitted: int = attrs.field(init=False, default=0)

    def submit(self, job: Job) -> Future[Any]:
        self.submitted += 1
        if self.submitted == 10:
            raise KeyboardInterrupt
        return Future() if self.submitted == 3 else run_now(job)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_blind_trial_that_was_missing_is_proposed_as_it_was(workers: int, kept: Callable[[], Store]) -> None:
    """Several workers end in any order: what ended behind it does not count."""
    whole, again, store = told(searched(None, ReferenceSearch(), Alone())), Alone(), kept()
    with pytest.raises(KeyboardInterrupt):
        searched(store, ReferenceSearch(), Alone(), executor=Late())
    found = told(searched(store, ReferenceSearch(), again, executor=AtOnce(workers=workers)))
    assert found[0] == whole[0]
    assert again.calls == COUNT - 8
