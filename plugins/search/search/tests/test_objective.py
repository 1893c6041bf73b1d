"""What an objective may return and raise, wherever and however often."""

from __future__ import annotations

import asyncio
import concurrent.futures
import decimal
import fractions
import functools
import math
import os
import sys
from typing import Any

import numpy as np
import pytest
import torch

from crosstask.context import LocalContext
from crosstask.errors import OptionError, RunError
from crosstask.executors import ProcessExecutor
from crosstask.options import component
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask_search.contract import Search
from crosstask_search.driver import run_search
from crosstask_search.objective import NoScoreError, measured
from crosstask_search.parameter import Parameter
from crosstask_search.records import SearchResult, Trial
from crosstask_search.space import SearchSpace
from crosstask_search.testing import ReferenceSearch

SPACE = SearchSpace(parameters={"x": Parameter(low=0.0, high=1.0)})


async def later(x: float) -> float:
    await asyncio.sleep(0)
    return 2 * x


def promised(x: float) -> Any:
    future: concurrent.futures.Future[float] = concurrent.futures.Future()
    future.set_result(2 * x)
    return future


@pytest.mark.parametrize(
    "evaluate",
    [
        lambda x: 2 * x,
        lambda x: np.float32(2 * x),
        lambda x: np.array([[2 * x]]),
        lambda x: torch.tensor(2.0 * x, requires_grad=True),
        lambda x: torch.tensor([2 * x]),
        lambda x: fractions.Fraction(2 * x),
        lambda x: decimal.Decimal(2 * x),
        functools.partial(lambda factor, x: factor * x, 2),
        later,
        lambda x: later(x),
        promised,
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_one_number_counts(evaluate: Any) -> None:
    assert measured(evaluate, 3) == 6.0
    assert type(measured(evaluate, 3)) is float


def test_a_coroutine_is_waited_for_inside_a_loop_as_well() -> None:
    async def notebook() -> float:
        return measured(later, 3)

    assert asyncio.run(notebook()) == 6.0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "returned None, not a number: is its `return` missing?"),
        ({"accuracy": 0.5, "loss": 1.0}, r"returned a table \('accuracy', 'loss'\): .* such as result\['accuracy'\]"),
        ("0.5", r"returned '0.5' \(str\): it must return one number"),
        ((0.5, 1.0), r"returned \(0.5, 1.0\) \(tuple\)"),
        (torch.ones(2, 3), r"returned a Tensor of shape \(2, 3\)"),
        (np.ones(4), r"returned a ndarray of shape \(4,\)"),
        (1j, r"returned 1j \(complex\)"),
        (10**400, "a number too large for a float"),
        (math.nan, "the objective is nan"),
        (torch.tensor(-math.inf), "the objective is -inf"),
    ],
)
def test_what_is_no_number_is_told(value: Any, message: str) -> None:
    with pytest.raises(NoScoreError, match=message):
        measured(lambda: value)
    result = run_search(LocalContext(), ReferenceSearch(), SPACE, lambda p: value, 2)
    assert result.failed == 2
    with pytest.raises(RunError, match=r"all 2 evaluations failed; the first: the objective .* \(trial 0, at {'x': "):
        result.require_best()


class OddError(Exception):
    def __str__(self) -> str:
        raise ValueError("cannot say")


class NoExceptionAtAll(BaseException):
    pass


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (MemoryError(), "MemoryError"),
        (OddError(), "OddError"),
        (NoExceptionAtAll("x"), "NoExceptionAtAll: x"),
        (SystemExit(2), "SystemExit: 2"),
        (GeneratorExit(), "GeneratorExit"),
        (asyncio.CancelledError(), "CancelledError"),
        (StopIteration(), "StopIteration"),
        (RecursionError("deep"), "RecursionError: deep"),
        (ExceptionGroup("two", [ValueError("a")]), "ExceptionGroup: two (1 sub-exception)"),
        (OSError("no \udcff\0"), "OSError: no \\udcff\\0"),
        (ValueError("y" * 5000), "ValueError: " + "y" * (1000 - len("ValueError: ")) + " …"),
    ],
)
def test_whatever_is_raised_is_a_failed_trial(raised: BaseException, told: str) -> None:
    def evaluate(point: dict[str, Any]) -> float:
        if point["x"] < 0.5:
            raise raised
        return float(point["x"])

    context = LocalContext()
    result = run_search(context, ReferenceSearch(), SPACE, evaluate, 12, key="raises")
    assert {trial.error for trial in result.trials} == {None, told}
    assert result.best is not None
    again = run_search(context, ReferenceSearch(), SPACE, lambda p: 0.0, 12, key="raises")  # all are remembered
    assert again.trials == result.trials


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), BaseExceptionGroup("tasks", [KeyboardInterrupt()])])
def test_an_interrupt_stops_the_search(raised: BaseException) -> None:
    def evaluate(point: dict[str, Any]) -> float:
        raise raised

    with pytest.raises(KeyboardInterrupt):
        run_search(LocalContext(), ReferenceSearch(), SPACE, evaluate, 12)


def test_earlier_trials_are_taken_over() -> None:
    whole = run_search(LocalContext(seed=5), ReferenceSearch(), SPACE, lambda p: p["x"], 9)
    calls = []

    def evaluate(point: dict[str, Any]) -> float:
        calls.append(point)
        return float(point["x"])

    began = [*whole.trials[:4], Trial(number=4, point=whole.trials[4].point)]  # one had not ended
    result = run_search(LocalContext(seed=5), ReferenceSearch(), SPACE, evaluate, 9, trials=began)
    assert [t.point for t in result.trials] == [t.point for t in whole.trials]
    assert len(calls) == 5
    outside = Trial(number=3, point={"x": 2.0}, status="done", value=1.0)
    with pytest.raises(OptionError, match=r"trials: trial 3: x must be from 0 to 1, got 2.0"):
        run_search(LocalContext(), ReferenceSearch(), SPACE, evaluate, 9, trials=[outside])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"evaluations": 0}, "evaluations must be at least 1, got 0"),
        ({"evaluations": 1.5}, "evaluations must be an integer, got 1.5"),
        ({"evaluations": True}, "evaluations must be an integer"),
        ({"evaluations": 2, "parallel": 0}, "parallel must be at least 1, got 0"),
        ({"evaluations": 2, "evaluate": 3}, "evaluate must be a function of a point, got 3"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        run_search(LocalContext(), ReferenceSearch(), SPACE, **{"evaluate": lambda p: 1.0, **arguments})


@component
class Breaks(Search):
    """Cannot propose a third point."""

    def propose(self, space: SearchSpace, trials: Any) -> dict[str, Any]:
        if len(trials) == 2:
            raise ZeroDivisionError("in the search itself")
        return {"x": len(trials) / 10}


def test_an_error_of_the_search_itself_is_no_failed_trial() -> None:
    with pytest.raises(ZeroDivisionError, match="in the search itself"):
        run_search(LocalContext(), Breaks(), SPACE, lambda p: 1.0, 5)


def dies_at_two(factor: float, point: dict[str, Any]) -> float:
    if point["a"] == 2:
        os._exit(7)
    if point["a"] == 3:
        sys.exit("not this one")
    return factor * point["a"]


def test_lost_workers_are_failed_trials() -> None:
    space = SearchSpace(parameters={"a": Parameter(choices=(1, 2, 3, 4))})
    with Run(Registry(), executor=ProcessExecutor(workers=2, retries=0)) as run:
        result = run_search(run, ReferenceSearch(), space, functools.partial(dies_at_two, 2.0), 9)
    by_value = {trial.point["a"]: trial for trial in result.trials}
    assert {a: trial.value for a, trial in by_value.items()} == {1: 2.0, 2: None, 3: None, 4: 8.0}
    assert "lost its worker process" in str(by_value[2].error)
    assert by_value[3].error == "SystemExit: not this one"


def test_an_objective_that_cannot_be_sent_says_so_at_once() -> None:
    with (
        Run(Registry(), executor=ProcessExecutor(workers=2)) as run,
        pytest.raises(OptionError, match="`def` at the top"),
    ):
        run_search(run, ReferenceSearch(), SPACE, lambda p: p["x"], 3)


def test_a_result_without_trials_has_no_best() -> None:
    with pytest.raises(RunError, match="all 0 evaluations failed"):
        SearchResult(search="none", trials=()).require_best()
