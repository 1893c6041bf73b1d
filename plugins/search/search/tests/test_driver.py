"""The ask-and-tell driver: failures, repeats, what is remembered, trials in parallel."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from crosstask.context import LocalContext
from crosstask.errors import OptionError
from crosstask.executors import ProcessExecutor
from crosstask.options import component, structure, unstructure
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.store import open_store
from crosstask_search.contract import Search
from crosstask_search.driver import run_search
from crosstask_search.objective import Judgement, Several, measured, what_failed
from crosstask_search.parameter import Parameter
from crosstask_search.records import SearchResult, Trial, WarmStart
from crosstask_search.space import SearchSpace
from crosstask_search.testing import ReferenceSearch

GRID = SearchSpace(parameters={"a": Parameter(choices=(1, 2, 3)), "b": Parameter(low=1, high=3, integer=True)})


def product(point: dict[str, Any]) -> float:
    return float(point["a"] * point["b"])


def test_search_finds_the_best_of_a_small_space_and_stops_there() -> None:
    result = run_search(LocalContext(), ReferenceSearch(), GRID, product, 50)
    assert len(result.trials) == result.evaluated == 9
    assert result.best is not None
    assert (result.best.point, result.best.value) == ({"a": 3, "b": 3}, 9.0)
    assert result.curve.steps == tuple(range(1, 10))
    assert list(result.curve.values) == sorted(result.curve.values)
    assert structure(json.loads(json.dumps(unstructure(result))), SearchResult, "result") == result


def test_a_space_without_a_valid_point_is_not_searched() -> None:
    space = SearchSpace(parameters=GRID.parameters, valid=lambda p: False)
    with pytest.raises(OptionError, match="has no valid point"):
        run_search(LocalContext(), ReferenceSearch(), space, product, 3)


def fails_on_two(point: dict[str, Any]) -> float:
    if point["a"] == 2:
        raise ValueError("two is not served")
    return math.nan if point["b"] == 2 else product(point)


def test_an_objective_that_raises_or_returns_nan_is_a_failed_trial() -> None:
    result = run_search(LocalContext(), ReferenceSearch(), GRID, fails_on_two, 9)
    by_point = {GRID.key(t.point): t for t in result.trials}
    assert by_point[2, 1].status == "failed"
    assert by_point[2, 1].error == "ValueError: two is not served"
    assert by_point[1, 2].error == "the objective is nan"
    assert result.failed == 3 + 2
    assert result.best is not None
    assert result.best.value == 9.0


def test_all_failed_has_no_best() -> None:
    result = run_search(LocalContext(), ReferenceSearch(), GRID, lambda p: math.inf, 4)
    assert result.best is None
    assert result.failed == 4
    assert result.curve.steps == ()


@component
class Always(Search):
    """The same point."""

    def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
        return {"a": 1, "b": len(trials) // 2 + 1}


def test_a_point_is_not_evaluated_twice() -> None:
    called = []

    def objective(point: dict[str, Any]) -> float:
        called.append(dict(point))
        return product(point)

    result = run_search(LocalContext(), Always(), GRID, objective, 6)
    assert called == [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 3}]
    assert [t.value for t in result.trials] == [1, 1, 2, 2, 3, 3]
    assert result.evaluated == 3


@component
class Outside(Search):
    """No point of the space."""

    def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
        return {"a": 7, "b": 1}


def test_a_proposal_outside_the_space_is_the_components_error() -> None:
    with pytest.raises(
        OptionError, match="search Outside proposed a point that is not in the space: it: a cannot be 7"
    ):
        run_search(LocalContext(), Outside(), GRID, product, 3)


def test_warm_starts_come_first_and_those_outside_are_left_out() -> None:
    starts = [{"a": 3, "b": 2}, {"a": 9, "b": 1}, WarmStart(point={"a": 2, "b": 2}, source="other"), {"a": 3, "b": 2}]
    result = run_search(LocalContext(), ReferenceSearch(), GRID, product, 5, warm_starts=starts)
    assert [t.point for t in result.trials[:2]] == [{"a": 3, "b": 2}, {"a": 2, "b": 2}]
    assert len({GRID.key(t.point) for t in result.trials}) == 5


def test_a_killed_search_goes_on(tmp_path: Path) -> None:
    whole = run_search(LocalContext(seed=3), ReferenceSearch(), GRID, product, 8, key="product")
    asked: list[int] = []

    def dies(point: dict[str, Any]) -> float:
        asked.append(1)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return product(point)

    for use in (dies, product):
        store = open_store(str(tmp_path / "store.db"))
        try:
            with Run(Registry(), seed=3, store=store) as run:
                result = run_search(run, ReferenceSearch(), GRID, use, 8, key="product")
        except KeyboardInterrupt:
            continue
        finally:
            store.close()
    assert [(t.point, t.value) for t in result.trials] == [(t.point, t.value) for t in whole.trials]
    assert result.curve == whole.curve
    store = open_store(str(tmp_path / "store.db"))
    with Run(Registry(), seed=3, store=store) as run:
        untouched = run_search(run, ReferenceSearch(), GRID, dies, 8, key="product")  # evaluates nothing
        other = run_search(run, ReferenceSearch(), GRID, lambda p: 0.0, 8, key="another objective")
    store.close()
    assert untouched.best == result.best
    assert other.best is not None
    assert other.best.value == 0.0


def slow_product(point: dict[str, Any]) -> float:
    time.sleep(0.01 * point["a"])
    return fails_on_two(point)


def test_processes_evaluate_in_parallel_and_no_point_twice() -> None:
    heard: list[int] = []

    @component
    class Counts(ReferenceSearch):
        """Notes how many trials run."""

        def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
            heard.append(sum(t.status == "running" for t in trials))
            return super().propose(space, trials)

    with Run(Registry(), executor=ProcessExecutor(workers=2)) as run:
        result = run_search(run, Counts(), GRID, slow_product, 20)
    assert max(heard) == 1  # beside the one that is proposed
    assert len(result.trials) == result.evaluated == 9
    assert [t.number for t in result.trials] == list(range(9))
    assert result.best is not None
    assert result.best.value == 9.0
    assert result.failed == 5


class InPairs(Several):
    """`fails_on_two` of several points with the same `a` at once; notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, Any]]] = []
        self.stop_at: int | None = None

    def __call__(self, point: dict[str, Any]) -> float:
        self.asked.append([point])
        return fails_on_two(point)

    def groups(self, points: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        named = {a: [place for place, point in enumerate(points) if point["a"] == a] for a in (3, 2, 1)}
        return [places for places in named.values() if len(places) > 1]

    def together(self, points: Sequence[Mapping[str, Any]]) -> list[Judgement]:
        if self.stop_at is not None and points[0]["a"] == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append([dict(point) for point in points])
        found: list[Judgement] = []
        for point in points:
            try:
                found.append((measured(fails_on_two, dict(point)), None))
            except Exception as error:
                found.append((None, what_failed(error)))
        return found


def told(result: SearchResult) -> Any:
    return [(t.number, t.point, t.status, t.value, t.error) for t in result.trials], result.curve


def test_trials_that_nobody_waits_for_are_evaluated_in_groups_and_told_in_order() -> None:
    """What is observed, and when, is what one after the other gives; failures stay with their trial."""

    @component
    class Hears(ReferenceSearch):
        """Notes what has ended."""

        def observe(self, trial: Trial) -> None:
            heard.append((trial.number, trial.value))

    heard: list[Any] = []
    alone, objective = run_search(LocalContext(seed=4), Hears(), GRID, fails_on_two, 9), InPairs()
    before, heard = heard, []
    with Run(Registry(), seed=4) as run:
        found = run_search(run, Hears(), GRID, objective, 9)
    assert told(found) == told(alone)
    assert heard == before
    assert sorted(len(points) for points in objective.asked) == [3, 3, 3]
    assert all(trial.seconds > 0 for trial in found.trials)


def test_a_search_that_looks_or_is_wrapped_is_not_asked_ahead() -> None:
    @component
    class Looks(ReferenceSearch):
        """Has a way of proposing of its own, and says nothing of it."""

        def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
            assert all(trial.status != "running" for trial in trials)
            return super().propose(space, trials)

    objective = InPairs()
    run_search(LocalContext(), Looks(), GRID, objective, 9)
    assert [len(points) for points in objective.asked] == [1] * 9


def test_in_one_process_as_many_are_evaluated_in_groups_as_may_run_at_once() -> None:
    """The proposals are those that a serial executor got before: of each round none has ended."""
    seen: list[list[bool]] = []

    @component
    class Looks(ReferenceSearch):
        """Notes which of the trials so far still run."""

        def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
            seen.append([trial.status == "running" for trial in trials])
            return super().propose(space, trials)

    found = []
    for objective in (fails_on_two, InPairs()):
        with Run(Registry(), seed=1) as run:
            found.append(told(run_search(run, Looks(), GRID, objective, 9, parallel=4)))
        assert [sum(running) for running in seen] == [0, 1, 2, 3, 0, 1, 2, 3, 0]
        seen.clear()
    assert found[0] == found[1]


def test_a_search_killed_in_a_group_goes_on_with_the_same_groups(tmp_path: Path) -> None:
    """What ended out of order is evaluated again, so that nothing depends on where it was stopped."""
    with Run(Registry(), seed=3) as run:
        whole = run_search(run, ReferenceSearch(), GRID, InPairs(), 9, key="pairs")
    third = next(t.point["a"] for t in whole.trials if len({u.point["a"] for u in whole.trials[: t.number + 1]}) == 3)
    asked = []
    for stop_at in (third, None):
        objective = InPairs()
        objective.stop_at = stop_at
        store = open_store(str(tmp_path / "store.db"))
        try:
            with Run(Registry(), seed=3, store=store) as run:
                result = run_search(run, ReferenceSearch(), GRID, objective, 9, key="pairs")
        except KeyboardInterrupt:
            continue
        finally:
            store.close()
            asked.append(objective.asked)
    assert told(result) == told(whole)
    first = next(t.number for t in whole.trials if t.point["a"] == third)
    again = {GRID.key(point) for points in asked[1] for point in points}
    assert again == {GRID.key(trial.point) for trial in whole.trials[first:]}
    assert 0 < first < 9 - 3  # some of those were evaluated before


def test_a_point_that_comes_again_in_a_round_takes_over_what_it_came_to() -> None:
    @component
    class Blind(Always):
        """The same points, whatever they came to."""

        @property
        def blind(self) -> float:
            return math.inf

        def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
            return super().propose(space, trials)

    objective = InPairs()
    result = run_search(LocalContext(), Blind(), GRID, objective, 6)
    assert [[point["b"] for point in points] for points in objective.asked] == [[1, 2, 3]]
    assert [t.value for t in result.trials] == [1, 1, None, None, 3, 3]
    assert [t.seconds > 0 for t in result.trials] == [True, False] * 3


def dies_with_four(point: dict[str, Any]) -> float:
    if point["a"] == point["b"] == 2:
        os._exit(1)
    return product(point)


class DiesTogether(InPairs):
    """Takes its process with it where the point of twos is among them."""

    def __call__(self, point: dict[str, Any]) -> float:
        return dies_with_four(point)

    def together(self, points: Sequence[Mapping[str, Any]]) -> list[Judgement]:
        return [(dies_with_four(dict(point)), None) for point in points]


def test_a_group_whose_process_is_lost_is_tried_one_by_one() -> None:
    with Run(Registry(), executor=ProcessExecutor(workers=2)) as run:
        result = run_search(run, ReferenceSearch(), GRID, DiesTogether(), 9)
    assert [t.point for t in result.trials if t.status == "failed"] == [{"a": 2, "b": 2}]
    assert all(t.value == product(t.point) for t in result.trials if t.status == "done")
