"""The command line, run as a user runs it (in process), on fake plugins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import crosstask.cli
from crosstask import Registry

RECIPE = """
name = "small"
seeds = 2
[source]
use = "fake"
[model]
hidden = [8]
[train]
steps = 40
learning_rate = 0.02
[budget]
steps = 20
samples = 12
learning_rate = 0.02
[[discovery]]
use = "fake"
[transfer]
use = "fake"
[curriculum]
target = "task2"
planner = "fake"
max_tasks = 2
[synthesis]
task = "new"
synthesizer = "fake"
"""


@pytest.fixture
def recipe(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls, settings=None: registry))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return str(path)


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(crosstask.cli.cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_run_then_report_then_resume(recipe: str, tmp_path: Path) -> None:
    told = invoke("run", recipe, "--out", "o")
    assert "target with curriculum" in told
    assert "report.html" in told
    first = json.loads((tmp_path / "o" / "run.json").read_text())
    (tmp_path / "o" / "report.html").unlink()
    assert "report" in invoke("report", "o")
    assert (tmp_path / "o" / "report.html").exists()
    again = json.loads(invoke("run", "--resume", "--out", "o", "--json"))
    assert again["run_id"] == first["run_id"]
    assert again["summary"] == first["summary"]


def test_every_command_speaks_json(recipe: str, tmp_path: Path) -> None:
    common = ("--recipe", recipe, "--out", "o", "--json")
    graph = json.loads(invoke("discover", *common))
    assert len(graph["edges"]) == 9  # six pairs, and three sources of the unseen task
    path = json.loads(invoke("curriculum", "task1", "--strategy", "fake", *common))
    assert path["task_sequence"][-1] == "task1"
    saved = str(tmp_path / "o" / "graph.json")
    assert json.loads(invoke("curriculum", "task1", "--strategy", "fake", "--graph", saved, *common)) == path
    transfer = json.loads(invoke("transfer", "task0", "task1", "--samples", *common))
    assert transfer["seeds"] == 2
    made = json.loads(invoke("synthesize", "new", "--strategy", "fake", *common))
    assert made["provenance"]["strategy"] == "fake"
    from safetensors.torch import load_file

    assert load_file(tmp_path / "o" / "new.safetensors")["bias"].shape == (3,)
    assert {row["name"] for row in json.loads(invoke("plugins", "--json"))} == {"kernel", "fakes"}


def test_every_command_draws_tables(recipe: str) -> None:
    common = ("--recipe", recipe, "--out", "o")
    assert "Strongest transfer" in invoke("discover", *common)
    assert "Curriculum for task1" in invoke("curriculum", "task1", "--strategy", "fake", *common)
    assert "weights kept" in invoke("transfer", "task0", "task1", *common)
    assert "made by fake" in invoke("synthesize", "new", "--strategy", "fake", *common)
    assert "fakes" in invoke("plugins")


def main_says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["crosstask", *arguments])
    with pytest.raises(SystemExit) as stop:
        crosstask.cli.main()
    return int(stop.value.code or 0), capsys.readouterr().err


def test_errors_are_one_line_and_exit_2(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = main_says(monkeypatch, capsys, "transfer", "tsk0", "task1", "--recipe", recipe)
    assert code == 2
    assert "error: no task 'tsk0'" in told
    assert "did you mean 'task0'" in told
    assert "Traceback" not in told
    assert main_says(monkeypatch, capsys, "run", "nowhere.toml")[1].startswith("error: no recipe file")
    assert "did you mean 'plugins'" in main_says(monkeypatch, capsys, "plugin")[1]
    assert "a RECIPE is needed" in main_says(monkeypatch, capsys, "run")[1]
    assert "error: no run in" in main_says(monkeypatch, capsys, "report", "nowhere")[1]


def test_ctrl_c_says_how_to_go_on(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crosstask.job.run_recipe", interrupted)
    code, told = main_says(monkeypatch, capsys, "run", recipe)
    assert code == 130
    assert "--resume" in told
