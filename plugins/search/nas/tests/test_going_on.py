"""Searches that were stopped within a round of several proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from crosstask.registry import Registry
from crosstask.run import Run
from crosstask_nas.bayesian import Bayesian
from crosstask_nas.evolutionary import Evolutionary
from crosstask_nas.random_search import RandomSearch
from crosstask_search.contract import Search
from crosstask_search.driver import run_search
from crosstask_search.objective import Judgement, Several
from crosstask_search.parameter import Parameter
from crosstask_search.records import SearchResult
from crosstask_search.space import SearchSpace

SQUARE = SearchSpace(parameters={"a": Parameter(low=0.0, high=1.0), "b": Parameter(low=0.0, high=1.0)})
COUNT = 14


class Hill:
    """Highest at (0.3, 0.7); stops at a call."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls, self.stop_at = 0, stop_at

    def __call__(self, point: dict[str, Any]) -> float:
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return -float((point["a"] - 0.3) ** 2 + (point["b"] - 0.7) ** 2)


class Hills(Hill, Several):
    """The same, all points at once."""

    def groups(self, points: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        return [list(range(len(points)))]

    def together(self, points: Sequence[Mapping[str, Any]]) -> list[Judgement]:
        return [(self(dict(point)), None) for point in points]


class InTurn(Hills):
    """The same, of which none goes with another."""

    def groups(self, points: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        return []


def searched(run: Run, search: Search, objective: Any, count: int = COUNT) -> SearchResult:
    return run_search(run, search, SQUARE, objective, count, key="hill", parallel=4)


def told(result: SearchResult) -> Any:
    return [(t.point, t.status, t.value) for t in result.trials], result.curve, result.best and result.best.number


@pytest.mark.parametrize("objective", [Hill, Hills, InTurn])
@pytest.mark.parametrize(
    ("kind", "options"),
    [(RandomSearch, {}), (Bayesian, {"initial": 4}), (Evolutionary, {"population": 4, "tournament": 2})],
    ids=["random", "bayesian", "evolutionary"],
)
def test_a_search_with_several_at_once_goes_on_as_if_it_had_not_been_stopped(
    kind: type[Search], options: dict[str, Any], objective: type[Hill]
) -> None:
    """At every call, and after every number of evaluations."""
    with Run(Registry(), seed=3) as run:
        whole = told(searched(run, kind(**options), objective()))
    for place in range(1, COUNT):
        with Run(Registry(), seed=3) as run:
            with pytest.raises(KeyboardInterrupt):
                searched(run, kind(**options), objective(place))
            assert told(searched(run, kind(**options), objective())) == whole, f"stopped at call {place}"
        with Run(Registry(), seed=3) as run:
            searched(run, kind(**options), objective(), place)
            assert told(searched(run, kind(**options), objective())) == whole, f"first {place}"
