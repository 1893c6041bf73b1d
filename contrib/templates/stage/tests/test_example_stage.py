"""Every check of the contract, and what is special about this stage."""

from pathlib import Path

import pytest

from crosstask.engine import TransferEngine
from crosstask.errors import RecipeError
from crosstask.job import run_recipe
from crosstask.recipe import load_recipe
from crosstask.records import Budget
from crosstask.testing import conformance, reference_registry, small_graph, small_portfolio
from crosstask_example_stage import ExampleStage
from crosstask_example_stage.plugin import PLUGIN

test_conformance = conformance(ExampleStage, options={"target": "moons", "most": 2}, registry=reference_registry())


def engine() -> TransferEngine:
    """An engine with small tasks, and a little to spend."""
    made = TransferEngine(registry=reference_registry(PLUGIN), discoverers=[], budget=Budget(steps=5), seeds=2)
    made.register(small_portfolio())
    return made


def test_the_most_promising_are_tried() -> None:
    with engine() as made:
        for edge in small_graph(made.portfolio).edges():
            made.graph.add(edge)
        promising = [edge.source for edge in made.graph.best_sources("halves", 2)]
        outcome = made.run_stage("example_stage", target="halves", most=2)
    assert set(outcome.record.coefficients) == set(promising)
    assert outcome.record.best in promising


def test_its_model_is_that_of_the_best() -> None:
    with engine() as made:
        outcome = made.run_stage("example_stage", target="moons", sources=["turned"])
        own = made.portfolio["turned"].model
    assert outcome.record.best == "turned"
    assert outcome.artifacts["model"] is not own
    weights = outcome.artifacts["model"].state_dict()
    assert all((weights[name] == weight).all() for name, weight in own.state_dict().items())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"target": "moon"}, "target: no task 'moon'; did you mean 'moons'?"),
        ({"target": "moons", "sources": ["mirrored"]}, "sources: no task 'mirrored'"),
        ({"target": "moons", "sources": ["moons"]}, "there is no task beside 'moons' to start from"),
    ],
)
def test_wrong_tasks_are_found_before_any_work(options: dict[str, object], told: str) -> None:
    with engine() as made, pytest.raises(RecipeError) as caught:
        made.run_stage("example_stage", **options)
    assert told in str(caught.value)


def test_the_recipe_runs(tmp_path: Path) -> None:
    registry = reference_registry(PLUGIN)
    recipe = load_recipe("example-stage", registry, ["train.steps=5", "budget.steps=5", "seeds=2"]).recipe
    record = run_recipe(recipe, tmp_path, registry=registry)
    assert set(record.result("example_stage", registry).coefficients) == {"above", "inside"}
    assert "Where to start" in (tmp_path / "report.html").read_text("utf-8")
