"""`crosstask transfer`, in process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from crosstask.errors import DataError
from crosstask.registry import Registry
from crosstask.testing import reference_registry
from crosstask_transfer.cli import command
from crosstask_transfer.plugin import PLUGIN

RECIPE = """
source = "reference"
executor = "serial"
seeds = 2
model = { hidden = [8] }
train = { steps = 20, learning_rate = 0.02 }
budget = { steps = 10, samples = 40, learning_rate = 0.02 }
transfer = "reference"
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    found = reference_registry(PLUGIN)
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls, settings=None: found))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return str(path)


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json(recipe: str) -> None:
    made = json.loads(invoke("moons", "turned", "--samples", "--recipe", recipe, "--out", "o", "--json"))
    assert (made["source"], made["target"], made["seeds"]) == ("moons", "turned", 2)
    assert "'reference'" in made["strategy"]


def test_a_table(recipe: str) -> None:
    told = invoke("moons", "turned", "--strategy", "reference", "--recipe", recipe, "--out", "o")
    for words in ("moons → turned by", "accuracy with transfer", "transfer coefficient", "weights kept"):
        assert words in told
    assert "sample efficiency" not in told
    assert "sample efficiency gain" in invoke("moons", "turned", "--samples", "--recipe", recipe, "--out", "o")


def test_a_task_that_is_not_there(recipe: str) -> None:
    with pytest.raises(DataError, match=r"no task 'mons'.*did you mean 'moons'"):
        invoke("mons", "turned", "--recipe", recipe)
