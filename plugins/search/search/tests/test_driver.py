"""The ask-and-tell driver: failures, repeats, what is remembered, trials in parallel."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
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
