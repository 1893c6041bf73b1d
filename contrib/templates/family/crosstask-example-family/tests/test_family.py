"""The stage, the recipe and the command together, as a user meets them; and the template."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from crosstask.cli import cli
from crosstask.errors import RecipeError
from crosstask.job import run_recipe
from crosstask.recipe import load_recipe
from crosstask.registry import Registry, data_path
from crosstask.testing import run_checks
from crosstask_example_family.plugin import PLUGIN

SMALL = ["train.steps=20", "source.arguments.samples=40"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the recipe with little training."""
    registry = Registry.installed()
    folder = tmp_path_factory.mktemp("run")
    run_recipe(load_recipe("example-family", registry, SMALL).recipe, folder, registry=registry)
    return folder


def test_the_run_tells_the_scores(run: Path) -> None:
    record = json.loads((run / "run.json").read_text("utf-8"))
    scores = record["results"]["example_family"]["scores"]
    assert set(scores) == {"above", "inside", "ring"}
    assert record["summary"]["worst_score"] == min(scores.values())
    assert "How good the answers are" in (run / "report.html").read_text("utf-8")


def test_the_command_prints_them(run: Path) -> None:
    told = CliRunner().invoke(cli, ["example-family", str(run)], catch_exceptions=False).output
    assert "example_family 'balanced'" in told
    assert "  ring\n" in told
    listed = CliRunner().invoke(cli, ["example-family", str(run), "--json"], catch_exceptions=False).output
    assert set(json.loads(listed)["scores"]) == {"above", "inside", "ring"}


def test_a_task_that_is_not_there_is_found_before_any_work(tmp_path: Path) -> None:
    registry = Registry.installed()
    recipe = load_recipe("example-family", registry, [*SMALL, 'example_family.tasks=["rung"]']).recipe
    with pytest.raises(RecipeError, match="tasks: no task 'rung'; did you mean 'ring'"):
        run_recipe(recipe, tmp_path, registry=registry)


def test_the_template_does_what_the_contract_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(data_path(PLUGIN.points[0].template) / "src")
    from crosstask_example_example_family import ExampleExampleFamily

    assert [(o.name, o.message) for o in run_checks(ExampleExampleFamily) if not o.ok] == []
