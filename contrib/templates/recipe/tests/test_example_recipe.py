"""The recipe loads, runs, and asks for what it uses."""

from pathlib import Path

import pytest

from crosstask.job import run_recipe
from crosstask.recipe import load_recipe
from crosstask.records import RunRecord
from crosstask.registry import Registry


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """A run of it with next to no training: every table and name is checked, and every stage works."""
    small = ["train.steps=5", "source.arguments.samples=40", "seeds=2"]
    small.append('discovery.discoverers=[{ use = "probe", method = "lp_ft", steps = 5, samples = 20, seeds = 2 }]')
    registry = Registry.installed()
    recipe = load_recipe("example-recipe", registry, small).recipe
    return run_recipe(recipe, tmp_path_factory.mktemp("run"), registry=registry)


def test_it_loads() -> None:
    resolved = load_recipe("example-recipe", Registry.installed())
    assert resolved.recipe.name == "example-recipe"
    assert Path(resolved.origins["train.steps"]).name == "example_recipe.toml"


def test_it_runs(record: RunRecord) -> None:
    assert record.status == "finished"
    assert record.summary["measured_pairs"] == 6


def test_it_asks_for_what_it_uses(record: RunRecord) -> None:
    required = record.recipe["requires"]
    assert {name for name in record.used if name != "crosstask-kernel"} <= set(required)
