"""`crosstask curriculum`, in process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from crosstask.manifest import Extension, Plugin
from crosstask.options import component, option
from crosstask.points.stage import Engine, Outcome, Stage
from crosstask.records import Interval
from crosstask.testing import installed, invoke, reference_registry, small_graph, small_portfolio
from crosstask_curricula.cli import command
from crosstask_curricula.plugin import PLUGIN

RECIPE = """
source = "reference"
executor = "serial"
model = { hidden = [8] }
train = { steps = 20, learning_rate = 0.02 }
transfer = "reference"
"""
TOLD: list[str] = []


@component
class Discovery(Stage):
    """Takes the place of the family's own: notes what it was asked for."""

    Result: ClassVar[type] = Interval
    keeps: ClassVar[bool] = False
    note: str = option("", help="what to note")

    def work(self, engine: Engine) -> Outcome:
        TOLD.append(self.note)
        engine.discover()
        return Outcome(Interval(mean=0.0, low=0.0, high=0.0))


OTHERS = Plugin("others", [Extension("stage", "discovery", f"{__name__}:Discovery", summary="For tests.")], api=(2, 0))


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    found = reference_registry(PLUGIN, OTHERS)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    TOLD.clear()
    with installed(found):
        yield path


def test_json_with_a_graph_that_was_found_before(recipe: Path, tmp_path: Path) -> None:
    small_graph(small_portfolio()).export(tmp_path / "graph.json")
    given = ("--recipe", recipe, "--graph", tmp_path / "graph.json", "--json")
    path = json.loads(invoke(command, "quarters", *given))
    assert path["task_sequence"][-1] == "quarters"
    assert json.loads(invoke(command, "quarters", "--strategy", "reference", *given)) == path
    assert len(json.loads(invoke(command, "turned", "--max-tasks", 2, *given))["task_sequence"]) == 2
    assert not TOLD


def test_a_table(recipe: Path) -> None:
    told = invoke(command, "quarters", "--recipe", recipe, "--out", "o")
    assert "Curriculum for quarters" in told
    assert "moons, halves" in told


def test_the_graph_is_found_as_the_recipe_says(recipe: Path) -> None:
    recipe.write_text(RECIPE + '[discovery]\nnote = "once"\n[again]\nuse = "discovery"\nnote = "twice"\n')
    invoke(command, "quarters", "--recipe", recipe, "--out", "o", "--json")
    assert TOLD == ["once", "twice"]
