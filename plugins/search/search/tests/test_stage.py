"""The stage `search`: what it finds and provides, warm starts in one run, what is refused before any work."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import nn

from crosstask.engine import TransferEngine
from crosstask.errors import RecipeError
from crosstask.graph import TransferGraph
from crosstask.job import run_recipe
from crosstask.learning.models import ModelSpec
from crosstask.manifest import Extension, Plugin
from crosstask.options import component, record, structure, unstructure
from crosstask.parts import Reference, reference
from crosstask.points.stage import Engine, Outcome, Stage
from crosstask.recipe import recipe_from
from crosstask.records import Budget, LearningCurve
from crosstask.registry import Registry
from crosstask.tasks import Portfolio, Task
from crosstask.testing import conformance, reference_registry, small_portfolio, small_task
from crosstask_search.models import ModelSpace
from crosstask_search.networks import run_model_search
from crosstask_search.parameter import Parameter
from crosstask_search.records import SearchResult, Trial
from crosstask_search.stage import NetworkSearch
from crosstask_search.testing import REFERENCE, ReferenceSearch

SMALL = {"kind": "mlp", "max_layers": 1, "widths": [2, 16], "tune": {"learning_rate": [1e-4, 0.05]}}
TRAIN = Budget(steps=40, batch_size=16)


@record
class Sizes:
    """Outputs of a network for each task."""

    sizes: dict[str, int]
    trained_with: Budget


@component
class Builds(Stage):
    """Builds a network that was found for every task."""

    Result: ClassVar[type] = Sizes
    model: ModelSpec | Reference | None = reference(ModelSpec, help="what to build")
    budget: Budget | Reference | None = reference(Budget, help="how to train it")

    def work(self, engine: Engine) -> Outcome:
        sizes = {}
        for task in engine.portfolio:
            network = self.referred("model").build(task.descriptor, 0)
            sizes[task.task_id] = network(task.data("test").inputs).shape[1]
        return Outcome(Sizes(sizes=sizes, trained_with=self.referred("budget")))


@component
class Discovers(Stage):
    """Stands for the stage that the family of discoverers brings."""

    Result: ClassVar[type] = Sizes
    keeps: ClassVar[bool] = False

    def work(self, engine: Engine) -> Outcome:
        engine.discover()
        return Outcome(Sizes(sizes={}, trained_with=engine.budget))


OTHERS = Plugin(
    "others",
    [
        Extension("stage", "builds", f"{__name__}:Builds"),
        Extension("stage", "discovery", f"{__name__}:Discovers"),
    ],
    api=(2, 0),
)


def registry() -> Registry:
    return reference_registry(REFERENCE, OTHERS)


test_conformance = conformance(
    NetworkSearch,
    options={"task": "moons", "models": structure(SMALL, ModelSpace, "models"), "evaluations": 2},
    registry=registry(),
)


def engine_with(portfolio: Portfolio, **given: Any) -> TransferEngine:
    made = TransferEngine(
        model=ModelSpec(hidden=(8,)),
        train=TRAIN,
        seeds=2,
        registry=registry(),
        **{"discoverers": ["reference"], **given},
    )
    made.register(portfolio)
    return made


@pytest.fixture
def engine() -> Iterator[TransferEngine]:
    with engine_with(small_portfolio(models=False)) as made:
        yield made


def test_it_finds_what_a_model_search_finds(engine: TransferEngine) -> None:
    outcome = engine.run_stage("search", task="quarters", models=SMALL, evaluations=4)
    result = outcome.record
    same = run_model_search(
        engine.run, ReferenceSearch(), NetworkSearch(task="quarters", models=SMALL).models, small_task("quarters"),
        TRAIN, 4, default=ModelSpec(hidden=(8,)), seeds=2,
    )  # fmt: skip
    assert [(t.point, t.value) for t in result.trials] == [(t.point, t.value) for t in same.trials]
    assert (result.score, result.default_score) == (same.score, same.default_score)
    assert result.best.point["learning_rate"] == 0.05
    assert NetworkSearch.summary(result) == {
        "search": "search 'reference' ((in process))",
        "searched_task": "quarters",
        "best_found": ", ".join(f"{name} {value}" for name, value in result.best.point.items()),
        "found_score": result.score,
        "default_score": result.default_score,
        "found_gain": result.gain,
        "failed_trials": None,
    }
    width = result.best.point["width1"]
    assert outcome.artifacts["model"] == ModelSpec(kind="mlp", hidden=(width,))
    assert outcome.artifacts["budget"] == attrs.evolve(TRAIN, learning_rate=0.05)


def test_without_tuning_the_budget_is_that_of_the_trials(engine: TransferEngine) -> None:
    short = Budget(steps=3)
    models = {"max_layers": 1, "widths": [2, 4]}
    outcome = engine.run_stage("search", task="moons", models=models, evaluations=2, budget=short)
    assert outcome.artifacts["budget"] == short
    later = engine.run_stage("search", task="halves", models=SMALL, evaluations=2, budget={"from": "search"})
    assert later.record.budget.steps == 3


def recipe(**tables: Any) -> dict[str, Any]:
    return {
        "source": "reference",
        "executor": "serial",
        "seeds": 1,
        "train": unstructure(TRAIN),
        "budget": {"steps": 5},
        **tables,
    }


def searching(task: str, evaluations: int = 4, **more: Any) -> dict[str, Any]:
    return {"task": task, "models": SMALL, "evaluations": evaluations, **more}


def test_what_was_found_is_built_for_other_tasks_also_in_a_resumed_run(tmp_path: Path) -> None:
    """Each task's own head; `build` stands first in the recipe and runs last."""
    build = {"use": "builds", "model": {"from": "search"}, "budget": {"from": "search"}}
    given = recipe_from(recipe(build=build, search=searching("quarters")), registry())
    found = run_recipe(given, tmp_path, registry=registry())
    again = run_recipe(None, tmp_path, registry=registry(), resume=True)
    for run in (found, again):
        sizes, search = run.result("build", registry()), run.result("search", registry())
        assert sizes.sizes == {"moons": 2, "halves": 2, "turned": 2, "quarters": 4, "shuffled": 2}
        assert sizes.trained_with == search.budget
        assert list(run.results) == ["search", "build"]
    assert found.results == again.results
    assert "<h2" in (tmp_path / "report.html").read_text()


def own_network(input_shape: tuple[int, ...], output_dim: int, *, widths: list[int]) -> nn.Module:
    assert isinstance(widths, list | tuple)
    sizes = [input_shape[0], *widths]
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(sizes[-1], output_dim))


def test_a_function_of_ones_own_is_built_for_other_tasks(engine: TransferEngine) -> None:
    models = ModelSpace(kind=f"{__name__}:own_network", parameters={"widths": Parameter(choices=((4,), (4, 8)))})
    found = engine.run_stage("search", task="moons", models=models, evaluations=2).artifacts["model"]
    assert isinstance(found.arguments["widths"], list)  # as a resumed run has it
    network = found.build(small_task("quarters").descriptor, 0)
    assert network(torch.zeros(3, 2)).shape == (3, 4)


def test_a_search_after_discovery_starts_from_what_related_tasks_liked(tmp_path: Path) -> None:
    """In one run: the graph says that `moons` helps `halves`, which is of its domain, and not `turned`."""
    tables = recipe(
        first=searching("moons", use="search"),
        related=searching("halves", 2, use="search"),
        other=searching("turned", 2, use="search"),
        discovery={},
    )
    run = run_recipe(recipe_from(tables, registry()), tmp_path, registry=registry())
    assert next(iter(run.results)) == "discovery"
    first, related, other = (run.result(name, registry()) for name in ("first", "related", "other"))
    ranked = sorted(first.trials, key=lambda trial: -trial.value)
    assert first.warm_starts == other.warm_starts == ()
    assert [start.source for start in related.warm_starts] == ["moons"] * 3
    assert related.warm_starts[0].point == ranked[0].point
    assert [trial.point for trial in related.trials] == [start.point for start in related.warm_starts[:2]]


def without(split: str) -> Portfolio:
    task = small_task("moons")
    setattr(task, split, None)
    return Portfolio([task])


def of_shape(**changes: Any) -> Portfolio:
    task = small_task("moons")
    return Portfolio([Task(descriptor=attrs.evolve(task.descriptor, **changes), train=(), validation=(), test=())])


OWN = {"kind": f"{__name__}:own_network", "parameters": {"widths": [[4], [8]]}}


@pytest.mark.parametrize(
    ("portfolio", "options", "message"),
    [
        (None, {"task": "mons"}, r"task: no task 'mons' in portfolio 'plane'; did you mean 'moons'"),
        (None, {"task": "mirrored"}, "task: 'mirrored' is held back as unseen"),
        (without("train"), {}, "task: 'moons' has no train data, which a search needs to learn"),
        (without("validation"), {}, "task: 'moons' has no validation data, which a search needs to choose"),
        (without("test"), {}, "task: 'moons' has no test data, which a search needs to judge"),
        (of_shape(input_shape=()), {}, "task: 'moons' needs input_shape and output_dim"),
        (None, {"models": {"kind": "conv"}}, "models: task 'moons': 'conv' needs inputs of shape"),
        (None, {"models": {"forbidden": [{"layers": [1, 2, 3]}]}}, "models: the search space has no valid point"),
        (None, {"models": {**OWN, "kind": "no.where:f"}}, "models: kind 'no.where:f' cannot be imported: ModuleNotF"),
        (None, {"models": {**OWN, "kind": f"{__name__}:nothing"}}, "models: kind '.*:nothing' cannot be imported"),
        (
            None,
            {"models": {**OWN, "parameters": {"widht": [1]}}},
            r"models: kind '.*' must take \(input_shape, output_dim\) and the parameters by name: .*widths",
        ),
        (
            None,
            {"models": ModelSpace(kind=OWN["kind"], parameters={"widths": Parameter(choices=(nn.ReLU, nn.GELU))})},
            "models: parameters: 'widths' cannot be <class .*ReLU'>: the network that is found is told by its choices",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_before_any_work(
    portfolio: Portfolio | None, options: Mapping[str, Any], message: str
) -> None:
    stage = NetworkSearch(**{"task": "moons", "search": "reference", **options})
    with pytest.raises(RecipeError, match=message):
        stage.check(portfolio or small_portfolio(models=False))


def test_how_many_evaluations_is_refused_with_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"\[search\].*evaluations must be >= 1, got 0"):
        run_recipe(recipe_from(recipe(search=searching("moons", 0)), registry()), tmp_path, registry=registry())


def test_the_section_shows_trials_and_what_became_of_them(engine: TransferEngine) -> None:
    result: SearchResult = engine.run_stage("search", task="moons", models=SMALL, evaluations=2).record
    failed = attrs.evolve(result.trials[0], number=2, status="failed", value=None, error="out of <memory>")
    result = attrs.evolve(result, trials=(*result.trials, failed))
    (section,) = NetworkSearch.sections(result, TransferGraph())
    assert section.title == "Search"
    for words in (
        "tried 3 networks for <strong>moons</strong>",
        "1 failed",
        "out of &lt;memory&gt;",
        "width1",
        "default",
    ):
        assert words in section.html


def test_the_section_draws_the_best_so_far_in_the_order_of_the_trials() -> None:
    """Whatever the order in which they ended, which is that of `curve`; small numbers keep their digits."""
    values = (0.6, None, 0.5, 0.8)
    trials = tuple(
        Trial(number=n, point={"rate": 0.0003, "width": 8}, status="failed" if value is None else "done", value=value)
        for n, value in enumerate(values)
    )
    curve = LearningCurve(steps=(1, 2, 3, 4), values=(0.5, 0.5, 0.6, 0.8))
    result = SearchResult(search="any", trials=trials, best=trials[3], curve=curve, metric="score<u>")
    (section,) = NetworkSearch.sections(result, TransferGraph())
    drawn = json.loads(section.html.partition('<script type="application/json">')[2].partition("</script>")[0])
    points, so_far = drawn["data"]
    assert points["x"] == so_far["x"] == [1, 3, 4]
    assert so_far["y"] == [0.6, 0.6, 0.8]
    assert "rate 0.0003, width 8" in section.html
    assert "<u>" not in section.html
    assert drawn["layout"]["yaxis"]["title"]["text"] == "score&lt;u&gt; on validation"
