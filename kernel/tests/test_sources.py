"""The kernel's own source: a function of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crosstask import DataError, OptionError, PluginError, Registry
from crosstask.job import run_recipe
from crosstask.recipe import recipe_from
from crosstask.sources import PythonSource

MODULE = """
from crosstask import Portfolio
from crosstask.testing import blobs

def portfolio(count=2):
    return Portfolio([blobs(f"task{n}", seed=n) for n in range(count)], unseen=[blobs("new")], name="mine")

def tasks(count=2):
    return list(portfolio(count))

def lazily():
    yield from tasks()

def nothing():
    return None

def none_at_all():
    return []

def without_end():
    number = 0
    while True:
        yield (number := number + 1)

def many():
    return list(range(1_000_000))

def needing(count, **more):
    return tasks(count)

def by_place(count=2, /):
    return tasks(count)

def raising(**more):
    raise TypeError("of its own: an argument 'count'")

def words():
    return ["a", "b"]

constant = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "tasks_of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "tasks_of_mine"


@pytest.mark.parametrize("function", ["portfolio", "tasks", "lazily"])
def test_a_function_gives_a_portfolio_or_tasks(module: str, function: str) -> None:
    found = PythonSource(function=f"{module}:{function}").load()
    assert list(found.ids) == ["task0", "task1"]
    assert (len(found.unseen), found.name) == ((1, "mine") if function == "portfolio" else (0, "portfolio"))


def test_arguments_are_passed_on(module: str) -> None:
    assert len(PythonSource(function=f"{module}:portfolio", arguments={"count": 4}).load()) == 4


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        ("portfolio", {"cuont": 4}, "portfolio has no argument 'cuont'; did you mean 'count'. Valid: count$"),
        ("lazily", {"m": 3}, r"lazily has no argument 'm' \(there are none\)$"),
        ("needing", {"more": 3}, r"needing: missing a required argument: 'count'; its arguments: count$"),
        ("by_place", {"count": 3}, r"by_place has no argument 'count' \(there are none\)$"),
    ],
)
def test_arguments_that_a_function_does_not_take(module: str, function: str, arguments: Any, said: str) -> None:
    with pytest.raises(OptionError, match=f"source PythonSource: arguments: {module}:{said}"):
        PythonSource(function=f"{module}:{function}", arguments=arguments).load()


def test_what_a_function_raises_is_its_own(module: str) -> None:
    with pytest.raises(TypeError, match="of its own") as caught:
        PythonSource(function=f"{module}:raising", arguments={"any": 3}).load()
    assert not isinstance(caught.value, OptionError)


@pytest.mark.parametrize(
    ("function", "error", "said"),
    [
        ("{module}", OptionError, "function must look like 'module:function', got 'tasks_of_mine'"),
        ("{module}:portfolo", PluginError, "tasks_of_mine has no 'portfolo'; did you mean 'portfolio'"),
        ("{module}_too:tasks", PluginError, "importing tasks_of_mine_too failed: ModuleNotFoundError"),
        ("{module}:constant", OptionError, "tasks_of_mine:constant is a int, not a function"),
        ("{module}:nothing", DataError, "tasks_of_mine:nothing must return a Portfolio or tasks, got None"),
        ("{module}:none_at_all", DataError, r"must return a Portfolio or tasks, got \[\]"),
        ("{module}:without_end", DataError, "must return a Portfolio or tasks, got <generator"),
        ("{module}:many", DataError, r"must return a Portfolio or tasks, got \[0, 1, 2, 3, 4, 5, ...\]$"),
        ("m" * 5000 + ":tasks", PluginError, "importing m+ failed"),
        ("m\0m:tasks", PluginError, "importing m.m failed"),
        ("{module}:words", DataError, r"must return a Portfolio or tasks, got \['a', 'b'\]"),
    ],
)
def test_what_cannot_be_loaded(module: str, function: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=f"source PythonSource: .*{said}"):
        PythonSource(function=function.format(module=module)).load()


def test_a_module_of_this_folder_is_told_how_to_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lying_here.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PluginError) as caught:
        PythonSource(function="lying_here:portfolio").load()
    assert "`python -m crosstask` finds it" in caught.value.__notes__[0]


def test_a_recipe_with_a_function_of_the_users(module: str, registry: Registry, tmp_path: Path) -> None:
    source: Any = {"use": "python", "function": f"{module}:portfolio", "arguments": {"count": 3}}
    record = run_recipe(recipe_from({"source": source, "look": {}}, registry), tmp_path / "o", registry=registry)
    assert record.results["look"]["edges"] == 6
    assert record.recipe["source"]["options"]["arguments"] == {"count": 3}
