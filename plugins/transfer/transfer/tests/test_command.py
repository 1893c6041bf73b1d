"""`crosstask transfer`, in process."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from crosstask import Evidence, Registry, RunRecord, TaskDescriptor, TransferEdge, TransferGraph
from crosstask.errors import DataError
from crosstask.options import unstructure
from crosstask.recipe import load_recipe
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
    rows = ("with transfer", "coefficient", "gain in")
    lines = {words: line for line in told.splitlines() for words in rows if words in line}
    assert re.search(r" \d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", lines["with transfer"]), "a score has no sign"
    for words in ("coefficient", "gain in"):
        assert re.search(r" [+-]\d\.\d{3} \[[+-]\d\.\d{3}, [+-]\d\.\d{3}\]", lines[words]), "a difference has one"
    assert "sample efficiency" not in told
    assert "sample efficiency gain" in invoke(command, "moons", "turned", "--samples", "--recipe", recipe, "--out", "o")


def test_a_task_that_is_not_there(recipe: str) -> None:
    with pytest.raises(DataError, match=r"no task 'mons'.*did you mean 'moons'"):
        invoke(command, "mons", "turned", "--recipe", recipe)


def test_advice_as_json_and_as_a_table(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = json.loads(invoke(advise, "turned", "--recipe", recipe, "--out", "o", "--json"))
    assert made["target"] == "turned"
    assert 0 < made["spent"] <= 0.25
    told = invoke(advise, "turned", "--share", "0", "--recipe", recipe, "--out", "o")
    assert "Features alone" in told
    assert made["rows"][0]["source"] in told
    assert [each["kind"] for each in made["strategies"]] == ["transfer", "balancer", "synthesis"]
    assert "Recommended" in told
    monkeypatch.setenv("COLUMNS", "70")
    narrow = invoke(advise, "turned", "--share", "0", "--recipe", recipe, "--out", "o").splitlines()
    (row,) = [line for line in narrow if line.startswith("│ transfer")]
    assert ("referenc " in row, "…" in row) == (True, False), "names are whole, on two lines if need be"


def test_what_a_run_of_the_folder_has_measured_counts_where_the_settings_are_the_same(recipe: str) -> None:
    asked = ["turned", "--recipe", recipe, "--out", "o", "--share", "0", "--json"]
    source = json.loads(invoke(advise, *asked))["rows"][0]["source"]
    graph = TransferGraph([TaskDescriptor(task_id=name) for name in (source, "turned")])
    measured = {"transfer_coefficient": 0.5, "evidence": Evidence.MEASURED, "score": 0.9}
    graph.add(TransferEdge(source=source, target="turned", **measured))
    graph.export(Path("o") / "graph.json")
    told = unstructure(load_recipe(recipe, Registry.installed()).recipe)
    record = RunRecord(run_id="a", name="small", seed=told["seed"], started="2026-01-01T00:00:00+00:00", recipe=told)
    (Path("o") / "run.json").write_text(json.dumps(unstructure(record)))
    row = json.loads(invoke(advise, *asked))["rows"][0]
    assert (row["source"], row["expected"]["mean"], row["evidence"]) == (source, 0.9, "measured by discovery")
    found = CliRunner().invoke(advise, [*asked, "--set", "train.steps=21", "--set", "seeds=3"])
    assert found.stderr == "what was measured in o is not used: it was with another train, seeds\n"
    assert "measured by discovery" not in found.stdout
