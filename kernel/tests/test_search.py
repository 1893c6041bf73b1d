"""Search spaces, the ask-and-tell driver, searching a task's network."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosstask.context import LocalContext
from crosstask.errors import DataError, OptionError, RunError
from crosstask.executors import ProcessExecutor
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.learning.search import (
    ModelSpace,
    Parameter,
    SearchResult,
    SearchSpace,
    Trial,
    WarmStart,
    run_model_search,
    run_search,
    warm_starts_for,
)
from crosstask.options import component, structure, unstructure
from crosstask.points.search import Search
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.store import open_store
from crosstask.testing.references import ReferenceSearch
from crosstask.testing.tasks import small_portfolio, small_task

DEEP = {
    "kind": Parameter(choices=("plain", "deep")),
    "layers": Parameter(low=2, high=4, integer=True, when={"kind": ("deep",)}),
    "rate": Parameter(low=1e-3, high=1.0, log=True),
}
GRID = SearchSpace(parameters={"a": Parameter(choices=(1, 2, 3)), "b": Parameter(low=1, high=3, integer=True)})


def product(point: dict[str, Any]) -> float:
    return float(point["a"] * point["b"])


# Parameters and spaces

parameters = st.one_of(
    st.lists(st.integers(-9, 9), min_size=1, max_size=5, unique=True).map(lambda c: Parameter(choices=tuple(c))),
    st.tuples(st.integers(1, 5), st.integers(0, 9), st.booleans()).map(
        lambda t: Parameter(low=t[0], high=t[0] + t[1], integer=True, log=t[2])
    ),
    st.tuples(st.floats(0.01, 5), st.floats(0, 9), st.booleans()).map(
        lambda t: Parameter(low=t[0], high=t[0] + t[1], log=t[2])
    ),
)


@given(parameters, st.floats(0, 1))
def test_values_and_places_are_inverse(parameter: Parameter, place: float) -> None:
    value = parameter.at(place)
    assert parameter.read(value, "it") == value
    again = parameter.at(parameter.place(value))
    assert again == pytest.approx(value, rel=1e-9)
    if parameter.size is not None:
        assert again == value
        assert value in parameter.values()
        assert len(parameter.values()) == parameter.size


def test_each_value_has_an_equal_part_and_log_ranges_equal_factors() -> None:
    whole = Parameter(low=1, high=4, integer=True)
    found = [whole.at((i + 0.5) / 400) for i in range(400)]
    assert [found.count(v) for v in (1, 2, 3, 4)] == [100] * 4
    assert Parameter(low=1e-4, high=1.0, log=True).at(0.5) == pytest.approx(1e-2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give either choices or a range"),
        ({"choices": [1], "low": 0.0, "high": 1.0}, "give either choices or a range"),
        ({"choices": [1, 2, 1]}, "choices must differ"),
        ({"choices": [1], "log": True}, "log and integer are for ranges"),
        ({"low": 0.0}, "a range needs both low and high"),
        ({"low": 2.0, "high": 1.0}, "finite low <= high, got 2.0 and 1.0"),
        ({"low": 0.0, "high": 1.0, "log": True}, "must be above 0, got low = 0.0"),
        ({"low": 0.5, "high": 2, "integer": True}, "must be whole"),
        ({"low": "a", "high": 1}, "low must be a number"),
        ({"choises": [1]}, "unknown option 'choises'; did you mean 'choices'"),
    ],
)
def test_wrong_parameters_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        structure({"parameters": {"a": given}}, SearchSpace, "space")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": {}}, "at least one parameter"),
        ({"parameters": {"a": {"choices": [1], "when": {"z": [1]}}}}, "no parameter 'z' before it"),
        (
            {"parameters": {"a": {"choices": [1], "when": {"b": [1]}}, "b": [1]}},
            "no parameter 'b' before it; it must come first",
        ),
        ({"parameters": {"a": [1], "b": {"choices": [1], "when": {"a": [2]}}}}, "when.a cannot be 2; valid: 1"),
        ({"parameters": {"width": [1]}, "forbidden": [{"widht": 1}]}, "no parameter 'widht'; did you mean 'width'"),
        ({"parameters": {"a": [1]}, "forbidden": [{"a": 3}]}, r"forbidden\[0\]: a cannot be 3; valid: 1"),
        ({"parameters": {"a": [1]}, "forbidden": [{}]}, "would forbid every point"),
        ({"parameters": {"a": [1]}, "valid": "nowhere"}, "must be a function or 'package.module:function'"),
        ({"parameters": {"a": 3}}, "must be a list of choices or a table"),
    ],
)
def test_wrong_spaces_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        structure(changes, SearchSpace, "space")


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"kind": "deep", "rate": 0.1}, "'layers' is missing"),
        ({"kind": "plain", "layers": 2, "rate": 0.1}, "'layers' means nothing where kind is 'plain'"),
        ({"kind": "deap", "layers": 2, "rate": 0.1}, "kind cannot be 'deap'; did you mean 'deep'"),
        ({"kind": "deep", "layers": 9, "rate": 0.1}, "layers must be from 2 to 4, got 9"),
        ({"kind": "deep", "layers": 2.5, "rate": 0.1}, "layers must be an integer"),
        ({"kind": "plain", "rate": 0.1, "ratee": 1}, "no parameter 'ratee'; did you mean 'rate'"),
        ({"kind": "deep", "layers": 4, "rate": 0.1}, "is not valid in this space"),
        ("plain", "must be a table of parameters"),
    ],
)
def test_wrong_points_are_refused(point: Any, message: str) -> None:
    space = SearchSpace(parameters=DEEP, forbidden=({"kind": "deep", "layers": [3, 4]},))
    with pytest.raises(OptionError, match=message):
        space.check(point)
    assert not space.contains(point)


def test_true_is_not_one() -> None:
    space = SearchSpace(parameters={"flag": Parameter(choices=(True, False))})
    assert space.check({"flag": True}) == {"flag": True}
    with pytest.raises(OptionError, match="flag cannot be 1"):
        space.check({"flag": 1})


@given(st.integers(0, 2**32 - 1))
def test_samples_are_valid_and_survive_the_unit_cube(seed: int) -> None:
    space = SearchSpace(parameters=DEEP, valid=lambda p: p.get("layers") != 3)
    points = space.sample(np.random.default_rng(seed), 20)
    assert all(space.check(p) == p for p in points)
    rows = space.encode(points)
    assert rows.shape == (20, 3)
    assert (np.isnan(rows[:, 1]) == ["layers" not in p for p in points]).all()
    inside = rows[~np.isnan(rows)]
    assert ((inside >= 0) & (inside <= 1)).all()
    for point, row in zip(points, rows, strict=True):
        again = space.decode(np.nan_to_num(row))
        assert again == {**point, "rate": pytest.approx(point["rate"])}


def test_counting_agrees_with_listing() -> None:
    parameters = {
        "layers": Parameter(choices=(1, 2, 3)),
        "width1": Parameter(choices=(4, 8)),
        "width2": Parameter(choices=(4, 8), when={"layers": (2, 3)}),
        "width3": Parameter(choices=(4, 8), when={"layers": (3,)}),
    }
    space = SearchSpace(parameters=parameters)
    points = list(space.points())
    assert space.count() == len(points) == 2 + 4 + 8
    assert len({space.key(p) for p in points}) == 14
    assert all(space.contains(p) for p in points)
    falling = SearchSpace(parameters=parameters, forbidden=({"width1": 4, "width2": 8},))
    assert falling.count() == sum(1 for p in points if not (p["width1"] == 4 and p.get("width2") == 8)) == 11
    assert SearchSpace(parameters=DEEP).count() is None
    huge = SearchSpace(parameters={f"p{i}": Parameter(choices=(1, 2, 3)) for i in range(40)})
    assert huge.count() == 3**40


def test_a_space_without_a_valid_point_says_so() -> None:
    for space in (
        SearchSpace(parameters=GRID.parameters, forbidden=({"a": [1, 2, 3]},)),
        SearchSpace(parameters=GRID.parameters, valid=lambda p: False),
    ):
        assert space.count() == 0
        for use in (space.require_points, lambda s=space: s.sample(np.random.default_rng(0))):
            with pytest.raises(OptionError, match="has no valid point: its constraints forbid every combination"):
                use()
    endless = SearchSpace(parameters=DEEP, valid=lambda p: p["rate"] > 2)
    with pytest.raises(OptionError, match="none of 10000 random ones is allowed"):
        endless.require_points()
    with pytest.raises(OptionError, match="has no valid point"):
        run_search(LocalContext(), ReferenceSearch(), space, product, 3)


def test_rare_valid_points_are_found_by_listing() -> None:
    parameters = {f"p{i}": Parameter(choices=tuple(range(10))) for i in range(5)}
    space = SearchSpace(parameters=parameters, valid=lambda p: set(p.values()) == {7})
    assert space.sample(np.random.default_rng(0), 2) == [{f"p{i}": 7 for i in range(5)}] * 2


def test_fresh_points_are_untried_until_all_are_tried() -> None:
    rng, tried = np.random.default_rng(0), set()
    for _ in range(9):
        key = GRID.key(GRID.fresh(rng, tried))
        assert key not in tried
        tried.add(key)
    assert GRID.key(GRID.fresh(rng, tried)) in tried


def only_ones(point: dict[str, Any]) -> bool:
    return point["a"] == 1


def test_space_round_trip() -> None:
    space = SearchSpace(parameters=DEEP, forbidden=({"kind": "deep", "layers": [4]},))
    assert structure(json.loads(json.dumps(unstructure(space))), SearchSpace, "space") == space
    named = SearchSpace(parameters=GRID.parameters, valid="kernel.tests.test_search:only_ones")
    assert unstructure(named)["valid"] == "kernel.tests.test_search:only_ones"
    assert SearchSpace(parameters={"a": Parameter(choices=([1, 2], [3]))}).check({"a": [3]}) == {"a": (3,)}


# The driver


def test_search_finds_the_best_of_a_small_space_and_stops_there() -> None:
    result = run_search(LocalContext(), ReferenceSearch(), GRID, product, 50)
    assert len(result.trials) == result.evaluated == 9
    assert result.best is not None
    assert (result.best.point, result.best.value) == ({"a": 3, "b": 3}, 9.0)
    assert result.curve.steps == tuple(range(1, 10))
    assert list(result.curve.values) == sorted(result.curve.values)
    assert structure(json.loads(json.dumps(unstructure(result))), SearchResult, "result") == result


def fails_on_two(point: dict[str, Any]) -> float:
    if point["a"] == 2:
        raise ValueError("two is not served")
    return math.nan if point["b"] == 2 else product(point)


def test_an_objective_that_raises_or_returns_nan_is_a_failed_trial() -> None:
    result = run_search(LocalContext(), ReferenceSearch(), GRID, fails_on_two, 9)
    by_point = {GRID.key(t.point): t for t in result.trials}
    assert by_point[2, 1].status == "failed"
    assert by_point[2, 1].error == "ValueError: two is not served"
    assert by_point[1, 2].error == "the objective is nan"
    assert result.failed == 3 + 2
    assert result.best is not None
    assert result.best.value == 9.0


def test_all_failed_has_no_best() -> None:
    result = run_search(LocalContext(), ReferenceSearch(), GRID, lambda p: math.inf, 4)
    assert result.best is None
    assert result.failed == 4
    assert result.curve.steps == ()


@component
class Always(Search):
    """The same point."""

    def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
        return {"a": 1, "b": len(trials) // 2 + 1}


def test_a_point_is_not_evaluated_twice() -> None:
    called = []

    def objective(point: dict[str, Any]) -> float:
        called.append(dict(point))
        return product(point)

    result = run_search(LocalContext(), Always(), GRID, objective, 6)
    assert called == [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 3}]
    assert [t.value for t in result.trials] == [1, 1, 2, 2, 3, 3]
    assert result.evaluated == 3


@component
class Outside(Search):
    """No point of the space."""

    def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
        return {"a": 7, "b": 1}


def test_a_proposal_outside_the_space_is_the_components_error() -> None:
    with pytest.raises(
        OptionError, match="search Outside proposed a point that is not in the space: it: a cannot be 7"
    ):
        run_search(LocalContext(), Outside(), GRID, product, 3)


def test_warm_starts_come_first_and_those_outside_are_left_out() -> None:
    starts = [{"a": 3, "b": 2}, {"a": 9, "b": 1}, WarmStart(point={"a": 2, "b": 2}, source="other"), {"a": 3, "b": 2}]
    result = run_search(LocalContext(), ReferenceSearch(), GRID, product, 5, warm_starts=starts)
    assert [t.point for t in result.trials[:2]] == [{"a": 3, "b": 2}, {"a": 2, "b": 2}]
    assert len({GRID.key(t.point) for t in result.trials}) == 5


def test_a_killed_search_goes_on(tmp_path: Path) -> None:
    whole = run_search(LocalContext(seed=3), ReferenceSearch(), GRID, product, 8, key="product")
    asked: list[int] = []

    def dies(point: dict[str, Any]) -> float:
        asked.append(1)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return product(point)

    for use in (dies, product):
        store = open_store(str(tmp_path / "store.db"))
        try:
            with Run(Registry(), seed=3, store=store) as run:
                result = run_search(run, ReferenceSearch(), GRID, use, 8, key="product")
        except KeyboardInterrupt:
            continue
        finally:
            store.close()
    assert [(t.point, t.value) for t in result.trials] == [(t.point, t.value) for t in whole.trials]
    assert result.curve == whole.curve
    store = open_store(str(tmp_path / "store.db"))
    with Run(Registry(), seed=3, store=store) as run:
        untouched = run_search(run, ReferenceSearch(), GRID, dies, 8, key="product")  # evaluates nothing
        other = run_search(run, ReferenceSearch(), GRID, lambda p: 0.0, 8, key="another objective")
    store.close()
    assert untouched.best == result.best
    assert other.best is not None
    assert other.best.value == 0.0


def slow_product(point: dict[str, Any]) -> float:
    time.sleep(0.01 * point["a"])
    return fails_on_two(point)


def test_processes_evaluate_in_parallel_and_no_point_twice() -> None:
    heard: list[int] = []

    @component
    class Counts(ReferenceSearch):
        """Notes how many trials run."""

        def propose(self, space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
            heard.append(sum(t.status == "running" for t in trials))
            return super().propose(space, trials)

    with Run(Registry(), executor=ProcessExecutor(workers=2)) as run:
        result = run_search(run, Counts(), GRID, slow_product, 20)
    assert max(heard) == 1  # beside the one that is proposed
    assert len(result.trials) == result.evaluated == 9
    assert [t.number for t in result.trials] == list(range(9))
    assert result.best is not None
    assert result.best.value == 9.0
    assert result.failed == 5


# Networks for a task


def test_model_spaces_make_specs_and_budgets() -> None:
    models = ModelSpace(max_layers=2, widths=(4, 8), tune={"learning_rate": Parameter(low=1e-3, high=0.1, log=True)})
    space = models.space(small_task("moons").descriptor)
    assert space.names == ("layers", "width1", "width2", "learning_rate")
    point = {"layers": 2, "width1": 8, "width2": 4, "learning_rate": 0.01}
    assert models.model(point).hidden == (8, 4)
    assert models.budget(point, Budget(steps=7)) == Budget(steps=7, learning_rate=0.01)
    assert structure(json.loads(json.dumps(unstructure(models))), ModelSpace, "space") == models


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "mpl"}, "kind must be 'mlp', 'conv' or 'package.module:function', got 'mpl'"),
        ({"kind": "a:b"}, "parameters say what a function of your own"),
        ({"parameters": {"x": [1]}}, "parameters say what a function of your own"),
        ({"widths": []}, "at least one width"),
        ({"tune": {"steps": [1, 2]}}, "tune cannot be 'steps'"),
        ({"tune": {"learning_rat": [1, 2]}}, "did you mean 'learning_rate'"),
    ],
)
def test_wrong_model_spaces_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        structure(given, ModelSpace, "space")


def test_convolutions_need_images_large_enough() -> None:
    models = ModelSpace(kind="conv", max_layers=9)
    with pytest.raises(OptionError, match="'conv' needs inputs of shape"):
        models.space(small_task("moons").descriptor)
    image = small_task("moons").descriptor
    assert models.space(structure({**image.to_json(), "input_shape": [1, 8, 8]}, type(image))).parameters[
        "layers"
    ].choices == (1, 2, 3)


def own_network(input_shape: tuple[int, ...], output_dim: int, *, width: int, bias: bool) -> Any:
    from torch import nn

    return nn.Sequential(nn.Linear(input_shape[0], width), nn.ReLU(), nn.Linear(width, output_dim, bias=bias))


def test_model_search_judges_the_winner_against_the_default_and_never_shows_the_test_data() -> None:
    task = small_task("quarters")

    @component
    class Looks(ReferenceSearch):
        """Sees what it is given."""

        def search_begins(self, space: Any, task: Any, models: Any) -> None:
            assert task.has_data("validation")
            assert not task.has_data("test")

    models = ModelSpace(
        kind="kernel.tests.test_search:own_network",
        parameters={"width": Parameter(choices=(2, 32)), "bias": Parameter(choices=(True, False))},
        tune={"learning_rate": Parameter(choices=(1e-4, 0.05))},
    )
    budget = Budget(steps=40, batch_size=16)
    with Run(Registry()) as run:
        result = run_model_search(run, Looks(), models, task, budget, 8, seeds=2)
    assert result.best is not None
    assert result.best.point["learning_rate"] == 0.05
    assert result.model["arguments"] == {n: v for n, v in result.best.point.items() if n != "learning_rate"}
    assert result.budget == Budget(steps=40, batch_size=16, learning_rate=0.05)
    assert (result.task_id, result.metric, result.split) == ("quarters", "accuracy", "test")
    assert result.score is not None
    assert result.default_score is not None
    assert result.gain is not None
    assert result.score.mean > result.default_score.mean  # 40 steps of the default rate are few
    assert result.gain.values == pytest.approx(
        [a - b for a, b in zip(result.score.values, result.default_score.values, strict=True)]
    )
    assert structure(json.loads(json.dumps(unstructure(result))), SearchResult, "result") == result


def test_model_search_is_the_same_in_processes() -> None:
    task, budget = small_task("moons"), Budget(steps=10, batch_size=16)
    models = ModelSpace(max_layers=1, widths=(4, 8, 16))
    found = []
    for executor in (None, ProcessExecutor(workers=2)):
        with Run(Registry(), executor=executor) as run:
            found.append(run_model_search(run, ReferenceSearch(), models, task, budget, 3, seeds=2, parallel=1))
    assert found[0].best is not None
    assert found[1].best is not None
    assert found[0].best.point == found[1].best.point
    assert found[0].score == found[1].score


def test_model_search_needs_its_splits_and_one_trial_that_works() -> None:
    task = small_task("moons")
    task.validation = None
    with pytest.raises(DataError, match="has no validation data"):
        run_model_search(LocalContext(), ReferenceSearch(), ModelSpace(), task, Budget(steps=1), 2)
    budget = Budget(steps=30, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(RunError, match=r"all 2 trials of the search failed; the first: RunError: task 'moons'"):
        run_model_search(LocalContext(), ReferenceSearch(), ModelSpace(), small_task("moons"), budget, 2)


def test_warm_starts_follow_the_graph() -> None:
    portfolio = small_portfolio(models=False)
    graph = TransferGraph(task.descriptor for task in portfolio)
    for source, coefficient in (("moons", 0.9), ("halves", 0.2), ("shuffled", -0.5)):
        graph.add(TransferEdge(source=source, target="turned", transfer_coefficient=coefficient))
    models = ModelSpace(max_layers=1, widths=(4, 8, 16))

    def searched(task_id: str, values: dict[int, float]) -> SearchResult:
        trials = tuple(
            Trial(number=i, point={"layers": 1, "width1": w}, status="done", value=v)
            for i, (w, v) in enumerate(values.items())
        )
        return SearchResult(search="x", trials=trials, task_id=task_id)

    results = {
        "moons": [searched("moons", {4: 0.5, 8: 0.9, 16: 0.7})],
        "halves": [searched("halves", {4: 0.5, 8: 0.4, 16: 0.9})],
        "shuffled": [searched("shuffled", {4: 0.9})],
    }
    starts = warm_starts_for(LocalContext(), graph, "turned", models, 3, results)
    assert [s.point["width1"] for s in starts] == [8, 16, 4]
    assert [s.weight for s in starts] == pytest.approx([0.9 * 1, 0.9 * 0.5 + 0.2 * 1, 0.2 * 0.5])
    assert starts[0].source == "moons"
    assert warm_starts_for(LocalContext(), graph, "turned", models) == []


def test_model_search_starts_from_what_related_tasks_liked() -> None:
    portfolio = small_portfolio(models=False)
    graph = TransferGraph(task.descriptor for task in portfolio)
    graph.add(TransferEdge(source="moons", target="turned", transfer_coefficient=0.8))
    models, budget = ModelSpace(max_layers=2, widths=(4, 16)), Budget(steps=20, batch_size=16, learning_rate=0.01)
    with Run(Registry()) as run:
        first = run_model_search(run, ReferenceSearch(), models, portfolio["moons"], budget, 6, seeds=1)
        second = run_model_search(
            run, ReferenceSearch(), models, portfolio["turned"], budget, 3, seeds=1, graph=graph, warm=2
        )
    ranked = sorted(first.trials, key=lambda t: t.value or 0.0)
    assert second.warm_starts[0].point == ranked[-1].point
    assert second.trials[0].point == second.warm_starts[0].point
    assert second.warm_starts[0].source == "moons"
