"""`crosstask transfer`, in process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from crosstask.errors import DataError
from crosstask.testing import installed, invoke, reference_registry
from crosstask_transfer.cli import command
from crosstask_transfer.cli_advise import command as advise
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
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    found = reference_registry(PLUGIN)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    with installed(found):
        yield str(path)


def test_json(recipe: str) -> None:
    made = json.loads(invoke(command, "moons", "turned", "--samples", "--recipe", recipe, "--out", "o", "--json"))
    assert (made["source"], made["target"], made["seeds"]) == ("moons", "turned", 2)
    assert "'reference'" in made["strategy"]


def test_a_table(recipe: str) -> None:
    told = invoke(command, "moons", "turned", "--strategy", "reference", "--recipe", recipe, "--out", "o")
    for words in ("moons → turned by", "accuracy with transfer", "transfer coefficient", "weights kept"):
        assert words in told
    assert "sample efficiency" not in told
    assert "sample efficiency gain" in invoke(command, "moons", "turned", "--samples", "--recipe", recipe, "--out", "o")


def test_a_task_that_is_not_there(recipe: str) -> None:
    with pytest.raises(DataError, match=r"no task 'mons'.*did you mean 'moons'"):
        invoke(command, "mons", "turned", "--recipe", recipe)


def test_advice_as_json_and_as_a_table(recipe: str) -> None:
    made = json.loads(invoke(advise, "turned", "--recipe", recipe, "--out", "o", "--json"))
    assert made["target"] == "turned"
    assert 0 < made["spent"] <= 0.25
    told = invoke(advise, "turned", "--share", "0", "--recipe", recipe, "--out", "o")
    assert "Features alone" in told
    assert made["rows"][0]["source"] in told
    assert [each["kind"] for each in made["strategies"]] == ["transfer", "balancer", "synthesis"]
    assert "Recommended" in told
