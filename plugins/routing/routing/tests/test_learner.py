"""`ToolMetaLearner`: plans, budgets, sequences, learning, tools that come and go, its state."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

from crosstask.errors import DataError, OptionError, PluginError, StoreError
from crosstask.options import structure, unstructure
from crosstask.records import Interval
from crosstask.store import open_store
from crosstask.testing import reference_registry
from crosstask_routing import (
    ExecutionPlan,
    PlannedTool,
    SimulatedTools,
    TaskComplexity,
    TaskProfile,
    ToolMetaLearner,
    ToolOutcome,
    ToolProfile,
    ToolType,
    create_tool_optimization_benchmark,
    example_tasks,
    example_tools,
)
from crosstask_routing.forecasts import Forecast
from crosstask_routing.plans import together
from crosstask_routing.testing import REFERENCE

REGISTRY = reference_registry(REFERENCE)
LOOKUP = TaskProfile("t", "lookup", TaskComplexity.MODERATE)


def learner(tools: Any = None, **options: Any) -> ToolMetaLearner:
    return ToolMetaLearner(example_tools() if tools is None else tools, registry=REGISTRY, **options)


def level(mean: float, half: float = 0.0) -> Interval:
    return Interval(mean=mean, low=mean - half, high=mean + half)


def step(name: str, success: Interval, cost: Interval, latency: Interval) -> PlannedTool:
    return PlannedTool(tool_id=name, success=success, cost=cost, latency=latency)


# Profiles


def test_the_names_of_the_specification_are_importable_together_and_have_its_defaults() -> None:
    """[run] The classic snippet used ToolType and TaskComplexity without importing them."""
    profile = ToolProfile("a", ToolType.SEARCH)
    assert (profile.cost_per_use, profile.reliability) == (1.0, 0.9)
    assert [each.level for each in TaskComplexity] == [0.0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0]
    assert structure(json.loads(json.dumps(unstructure(profile))), ToolProfile, "tool") == profile
    task = TaskProfile("t", "lookup", TaskComplexity.COMPLEX, (0.5,), ToolType.SEARCH)
    assert structure(json.loads(json.dumps(unstructure(task))), TaskProfile, "task") == task


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ToolProfile("a", ToolType.SEARCH, cost_per_use=-1), "cost_per_use must be >= 0"),
        (lambda: ToolProfile("a", ToolType.SEARCH, reliability=1.2), "reliability must be"),
        (lambda: ToolProfile("a", ToolType.SEARCH, cost_per_use=math.inf), "cost_per_use must be finite"),
        (lambda: ToolProfile(" ", ToolType.SEARCH), "tool_id is empty"),
        (lambda: ToolProfile("a", "serch"), "tool_type"),
        (lambda: TaskProfile("t", "x", "moderat"), "complexity"),
        (lambda: TaskProfile("t", "x", TaskComplexity.SIMPLE, (math.nan,)), "features must be finite"),
    ],
)
def test_profiles_are_checked(make: Any, told: str) -> None:
    with pytest.raises((DataError, OptionError), match=told):
        make()


# Plans


def test_a_plan_has_tools_in_order_with_what_to_expect_of_each_and_of_all() -> None:
    plan = learner(attempts=2).optimize_task_execution(LOOKUP)
    assert isinstance(plan, ExecutionPlan)
    assert (plan.kind, len(plan.tools), plan.steps[0].uses) == ("choice", 2, 0)
    for part in (*plan.steps, plan):
        for value in (part.success, part.cost, part.latency):
            assert 0 <= value.low <= value.mean <= value.high
    assert 0 <= plan.exploration <= 1
    tools = example_tools()
    assert [s.success.mean for s in plan.steps] == [tools[name].reliability for name in plan.tools]
    assert structure(json.loads(json.dumps(unstructure(plan))), ExecutionPlan, "plan") == plan
    assert plan.tools[0] in plan._headline()
    assert plan._rows() == plan.steps


def test_the_whole_of_a_choice_and_of_a_sequence_against_drawn_outcomes() -> None:
    """Means in closed form against 200,000 executions, half-widths against draws of what is expected of each."""
    rng = np.random.default_rng(0)
    steps = [
        step("a", level(0.6, 0.02), level(1.0, 0.1), level(0.5)),
        step("b", level(0.5, 0.03), level(2.0, 0.2), level(1.0)),
        step("c", level(0.8, 0.01), level(4.0, 0.1), level(2.0)),
    ]
    success, cost, latency = together(steps, "choice")
    works = rng.random((200_000, 3)) < [0.6, 0.5, 0.8]
    reached = np.concatenate([np.ones((len(works), 1), bool), np.cumsum(works, axis=1)[:, :2] == 0], axis=1)
    assert success.mean == pytest.approx(works.any(1).mean(), abs=0.003)
    assert cost.mean == pytest.approx((reached @ [1.0, 2.0, 4.0]).mean(), abs=0.01)
    assert latency.mean == pytest.approx((reached @ [0.5, 1.0, 2.0]).mean(), abs=0.005)
    p = np.array([0.6, 0.5, 0.8]) + np.array([0.02, 0.03, 0.01]) / 1.96 * rng.standard_normal((100_000, 3))
    c = np.array([1.0, 2.0, 4.0]) + np.array([0.1, 0.2, 0.1]) / 1.96 * rng.standard_normal((100_000, 3))
    q = 1 - p
    drawn = c[:, 0] + q[:, 0] * c[:, 1] + q[:, 0] * q[:, 1] * c[:, 2]
    assert cost.high - cost.mean == pytest.approx(1.96 * drawn.std(), rel=0.02)
    assert success.high - success.mean == pytest.approx(1.96 * (1 - q.prod(1)).std(), rel=0.02)
    success, cost, _ = together(steps, "sequence")
    assert (success.mean, cost.mean) == (pytest.approx(0.24), pytest.approx(7.0))
    assert success.high - success.mean == pytest.approx(1.96 * p.prod(1).std(), rel=0.02)
    assert cost.high - cost.mean == pytest.approx(1.96 * c.sum(1).std(), rel=0.02)


def test_an_empty_set_of_tools_is_no_error_until_it_is_planned_with() -> None:
    empty = learner({})
    assert ToolMetaLearner(registry=REGISTRY).tools == {}
    with pytest.raises(DataError, match=r"no tool to use: add one with add_tool"):
        empty.optimize_task_execution(LOOKUP)
    empty.add_tool(ToolProfile("late", ToolType.SEARCH))
    assert empty.optimize_task_execution(LOOKUP).tools == ("late",)


def test_a_tool_of_reliability_0_is_never_planned() -> None:
    broken, works = ToolProfile("broken", ToolType.SEARCH, 0.0, 0.0), ToolProfile("works", ToolType.SEARCH, 5.0, 0.1)
    made = learner({"broken": broken, "works": works}, attempts=2)
    assert {made.optimize_task_execution(LOOKUP).tools for _ in range(5)} == {("works",)}
    assert [each.tool_id for each in made.efficiency(LOOKUP)] == ["works"]
    made.learn_from_execution(LOOKUP, {"broken": True})  # somebody used it nevertheless
    with pytest.raises(DataError, match=r"no tool to use; out of use \(reliability 0\): broken"):
        learner({"broken": broken}).optimize_task_execution(LOOKUP)


def test_budgets_hold_for_the_whole_plan() -> None:
    made = learner(attempts=3, cost_budget=0.6)
    plan = made.optimize_task_execution(LOOKUP)
    assert plan.cost.mean <= 0.6 + 1e-9
    assert "large_model" not in plan.tools
    assert made.optimize_task_execution(LOOKUP, cost_budget=0.25).tools == ("keyword_search",)
    assert made.optimize_task_execution(LOOKUP, latency_budget=0.1, cost_budget=9).latency.mean <= 0.1
    with pytest.raises(
        DataError, match=r"no tool is expected to keep the budget: cost 0.1 \(the least is 0.2, of 'key"
    ):
        made.optimize_task_execution(LOOKUP, cost_budget=0.1)
    for wrong in (-1, math.nan, math.inf):
        with pytest.raises(OptionError, match="cost_budget must be a finite number from 0 on"):
            made.optimize_task_execution(LOOKUP, cost_budget=wrong)


# Sequences


def chain() -> nx.DiGraph:
    return nx.DiGraph([
        ("keyword_search", "statistics"), ("semantic_search", "statistics"), ("statistics", "small_model"),
        ("statistics", "large_model"), ("small_model", "checker"), ("large_model", "checker"),
    ])  # fmt: skip


def test_a_sequence_is_the_shortest_path_of_all_that_are_possible() -> None:
    tools = {n: ToolProfile(n, p.tool_type, p.cost_per_use, p.reliability) for n, p in example_tools().items()}
    made = learner(tools, graph=chain(), cost_weight=0.05)
    task = TaskProfile("t", "report", TaskComplexity.SIMPLE)
    every = [
        (one, "statistics", two, "checker")
        for one, two in itertools.product(("keyword_search", "semantic_search"), ("small_model", "large_model"))
    ]
    for _ in range(60):  # so that what is expected differs from the profiles and is sure
        for name, rate in {"keyword_search": 0.5, "semantic_search": 0.9, "small_model": 0.8, "large_model": 0.85,
                           "statistics": 0.9, "checker": 0.9}.items():  # fmt: skip
            made.learn_from_execution(task, {name: {"success": rate, "cost": tools[name].cost_per_use}})
    plan = made.optimize_task_execution(task)
    known = {each.tool_id: each for each in made.efficiency(task)}

    def long(path: tuple[str, ...]) -> float:
        return sum(-math.log(known[n].success.high) + 0.05 * known[n].cost.mean for n in path)

    assert plan.kind == "sequence"
    assert plan.tools == min(every, key=long) == ("semantic_search", "statistics", "small_model", "checker")
    assert plan.success.mean == pytest.approx(math.prod(known[n].success.mean for n in plan.tools))
    assert plan.exploration == 0.0
    assert " → " in plan._headline()


def test_a_sequence_keeps_the_budget_and_begins_and_ends_as_the_task_says() -> None:
    made = learner(graph=chain(), cost_weight=0.0)
    assert made.optimize_task_execution(LOOKUP, cost_budget=2.0).tools == (
        "keyword_search", "statistics", "small_model", "checker",
    )  # fmt: skip
    analysis = TaskProfile("t", "lookup", TaskComplexity.SIMPLE, begin=ToolType.ANALYSIS, end=ToolType.GENERATION)
    assert made.optimize_task_execution(analysis, cost_budget=2.0).tools == ("statistics", "small_model")
    with pytest.raises(DataError, match=r"no sequence of usable tools .* keep the budget"):
        made.optimize_task_execution(LOOKUP, cost_budget=1.0)
    nothing = TaskProfile("t", "lookup", TaskComplexity.SIMPLE, begin=ToolType.EXECUTION)
    with pytest.raises(DataError, match="no sequence can begin: the tool graph has not a tool of type EXECUTION"):
        made.optimize_task_execution(nothing)
    made.remove_tool("statistics")
    with pytest.raises(DataError, match="no sequence of usable tools leads from its beginnings to its ends"):
        made.optimize_task_execution(TaskProfile("t", "lookup", TaskComplexity.SIMPLE, begin=ToolType.SEARCH,
                                                 end=ToolType.VALIDATION))  # fmt: skip


def test_a_budget_that_none_of_many_sequences_keeps_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosstask_routing.learner.PATHS", 2)
    with pytest.raises(DataError, match="or none is expected to keep the budget"):
        learner(graph=chain()).optimize_task_execution(LOOKUP, cost_budget=0.1)


def test_sequences_explore_less_and_less() -> None:
    made, world = learner(graph=chain()), np.random.default_rng(1)
    task, explored = TaskProfile("t", "report", TaskComplexity.SIMPLE), []
    rates = {"keyword_search": 0.4, "semantic_search": 0.9, "small_model": 0.3, "large_model": 0.95}
    for _ in range(120):
        plan = made.optimize_task_execution(task)
        explored.append(plan.exploration)
        made.learn_from_execution(task, {n: bool(world.random() < rates.get(n, 0.9)) for n in plan.tools})
    assert np.mean(explored[-30:]) < np.mean(explored[:30])
    assert plan.tools == ("semantic_search", "statistics", "large_model", "checker")


def test_a_tool_graph_is_checked() -> None:
    with pytest.raises(DataError, match="unknown tool 'statistic'; did you mean 'statistics'"):
        learner(graph=nx.DiGraph([("statistic", "checker")]))
    with pytest.raises(DataError, match=r"must be a networkx\.DiGraph, got a Graph"):
        learner(graph=nx.Graph())
    made = learner()
    made.connect("keyword_search", "checker")
    assert made.optimize_task_execution(LOOKUP).tools == ("keyword_search", "checker")


# Learning


def test_learning_gives_a_result_and_changes_what_is_expected() -> None:
    """[run] The classic form said of neither enum nor result what they are."""
    made = learner({"a": ToolProfile("a", ToolType.SEARCH, 2.0, 0.5, 1.0)}, cost_weight=0.1, latency_weight=0.2)
    plan = made.optimize_task_execution(LOOKUP)
    told = made.learn_from_execution(LOOKUP, {"a": {"success": True, "cost": 3.0, "latency": 0.5}})
    assert told.rewards == {"a": pytest.approx(1 - 0.3 - 0.1)}
    assert told.surprises == {"a": pytest.approx(0.5)}
    assert (told.success, told.executions, told.success_rate, told.mean_cost) == (True, 1, 1.0, 3.0)
    assert (told.mean_latency, told.efficiency, told.exploration) == (0.5, pytest.approx(1 / 3), plan.exploration)
    after = made.optimize_task_execution(LOOKUP)
    assert after.success.mean > plan.success.mean
    assert 2.0 < after.cost.mean < 3.0
    assert after.latency.mean < 1.0
    again = made.learn_from_execution(LOOKUP, {"a": ToolOutcome(tool_id="a", success=0.0)})
    assert (again.success_rate, again.mean_cost, again.mean_latency) == (0.5, 2.5, 0.5)
    assert made.optimize_task_execution(LOOKUP).latency == after.latency, "a latency that was not measured"


def test_it_learns_which_tool_is_for_which_type() -> None:
    right = {"sums": "table", "trends": "chart"}
    made = learner({name: ToolProfile(name, ToolType.ANALYSIS) for name in ("text", "table", "chart")})
    for number in range(80):
        task = TaskProfile(f"t{number}", ("sums", "trends")[number % 2], TaskComplexity.SIMPLE)
        (tool,) = made.optimize_task_execution(task).tools
        made.learn_from_execution(task, {tool: tool == right[task.task_type]})
    for kind, tool in right.items():
        assert made.optimize_task_execution(TaskProfile("n", kind, TaskComplexity.SIMPLE)).tools == (tool,)
        first, *_ = made.efficiency(TaskProfile("n", kind, TaskComplexity.SIMPLE))
        assert (first.tool_id, first.uses > 10) == (tool, True)
        assert first.per_cost == pytest.approx(first.success.mean / first.cost.mean)


def test_an_expensive_tool_must_be_worth_its_cost() -> None:
    tools = {"cheap": ToolProfile("cheap", ToolType.SEARCH, 0.5), "dear": ToolProfile("dear", ToolType.SEARCH, 4.0)}
    made, rng = learner(tools, cost_weight=0.1), np.random.default_rng(0)
    for _ in range(80):
        (tool,) = made.optimize_task_execution(LOOKUP).tools
        made.learn_from_execution(LOOKUP, {tool: bool(rng.random() < {"cheap": 0.7, "dear": 0.9}[tool])})
    assert made.optimize_task_execution(LOOKUP).tools == ("cheap",)


@pytest.mark.parametrize(
    ("results", "told"),
    [
        ({"cheker": True}, "unknown tool 'cheker'; did you mean 'checker'"),
        ([{"success": True}], "unknown tool 'None'"),
        (ToolOutcome(tool_id="cheker", success=1.0), "unknown tool 'cheker'"),
        ({}, "no results to learn from"),
        ({"checker": {"success": 1.5}}, "success"),
        ({"checker": {"success": True, "costs": 1.0}}, "unknown option 'costs'; did you mean 'cost'"),
        ({"checker": {"success": True, "cost": math.inf}}, "cost must be finite, got inf"),
        ({"checker": ToolOutcome(tool_id="statistics", success=1.0)}, "stands under the name 'checker'"),
        (["checker"], "a result is a table or a ToolOutcome"),
        (3, "results are a table by tool or a list"),
    ],
)
def test_results_that_do_not_fit_are_refused_and_teach_nothing(results: Any, told: str) -> None:
    made = learner()
    made.optimize_task_execution(LOOKUP)
    before = json.dumps(made.state_dict())
    with pytest.raises((DataError, OptionError), match=told):
        made.learn_from_execution(LOOKUP, results)
    assert json.dumps(made.state_dict()) == before


def test_what_is_refused_leaves_nothing_behind() -> None:
    """Also where the first of several results could have been learned from, and of the task no type and no features."""
    made, tools = learner(), example_tools()
    before, (one, two) = json.dumps(made.state_dict()), list(tools)[:2]
    results = {one: {"success": 1.0, "cost": 1.0}, two: {"success": 1.0, "cost": 1e102}}
    with pytest.raises(DataError, match="cost is too large to learn from"):
        made.learn_from_execution(LOOKUP, results)
    assert json.dumps(made.state_dict()) == before
    with pytest.raises(DataError, match="cost_per_use is too large"):
        made.add_tool(ToolProfile("dear", ToolType.SEARCH, cost_per_use=1e105))
    assert json.dumps(made.state_dict()) == before


def test_tools_come_and_go() -> None:
    made = learner({"a": ToolProfile("a", ToolType.SEARCH, 0.1, 0.3)})
    made.learn_from_execution(LOOKUP, {"tool_id": "a", "success": 0.0})
    made.add_tool(ToolProfile("b", ToolType.SEARCH, 0.1, 0.9))
    assert made.optimize_task_execution(LOOKUP).tools == ("b",)
    with pytest.raises(DataError, match="there is a tool 'b' already"):
        made.add_tool(ToolProfile("b", ToolType.SEARCH))
    made.remove_tool("b")
    assert made.optimize_task_execution(LOOKUP).tools == ("a",)
    with pytest.raises(DataError, match="unknown tool 'b'; valid: a"):
        made.learn_from_execution(LOOKUP, {"b": True})
    for wrong, told in (({"x": ToolProfile("a", ToolType.SEARCH)}, "stands under the name 'x'"),
                        ({"a": "search"}, "a tool is a ToolProfile"), ([1], "tools are a dict")):  # fmt: skip
        with pytest.raises(DataError, match=told):
            learner(wrong)


def test_tasks_are_checked() -> None:
    made = learner()
    made.optimize_task_execution(TaskProfile("t", "lookup", TaskComplexity.SIMPLE, (1.0, 2.0)))
    with pytest.raises(DataError, match="has 1 features, those before had 2"):
        made.optimize_task_execution(TaskProfile("t", "lookup", TaskComplexity.SIMPLE, (1.0,)))
    with pytest.raises(DataError, match="a task is a TaskProfile, got a str"):
        made.optimize_task_execution("lookup")  # type: ignore[arg-type]
    for options, told in (({"attempts": 0}, "attempts must be at least 1"), ({"discount": 1.5}, "discount must be at"),
                          ({"ridge": 0.0}, "ridge must be a finite number above 0")):  # fmt: skip
        with pytest.raises(OptionError, match=told):
            learner(**options)


# State


def test_its_state_survives_in_a_store_and_goes_on_to_the_last_digit(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first = learner(graph=chain(), discount=0.99)

    def go_on(made: ToolMetaLearner, numbers: range) -> list[Any]:
        found = []
        for number in numbers:
            task = TaskProfile(f"t{number}", f"type {number % 3}", TaskComplexity.COMPLEX)
            plan = made.optimize_task_execution(task)
            outcomes = {
                name: {"success": (number * 7 + len(name)) % 3 > 0, "latency": 0.1 * number} for name in plan.tools
            }
            found.append((plan, made.learn_from_execution(task, outcomes)))
        return found

    go_on(first, range(20))
    first.save(path, "mine")
    second = learner({}, discount=0.99)
    second.load(path, "mine")
    assert go_on(first, range(20, 40)) == go_on(second, range(20, 40))
    assert json.dumps(first.state_dict()) == json.dumps(second.state_dict())
    plain = learner()
    plain.load_state_dict(learner().state_dict())  # one without a tool graph
    assert plain.graph is None
    first.save(path, "mine")  # over what is there
    store = open_store(str(path))
    third = learner({})
    third.load(store, "mine")
    assert third.executions == 40
    with pytest.raises(StoreError, match="no tool learner 'min'; did you mean 'mine'"):
        third.load(store, "min")
    store.close()


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    made = learner()
    made.learn_from_execution(LOOKUP, {"checker": True})
    before = made.state_dict()
    for wrong in ({}, {**before, "totals": [1]}, {**before, "router": {"name": "Another", "state": {}}},
                  {**before, "forecasts": {}}, {**before, "types": None}):  # fmt: skip
        with pytest.raises(PluginError):
            made.load_state_dict(wrong)
        assert json.dumps(made.state_dict()) == json.dumps(before)
    bent = json.loads(json.dumps(before))
    bent["forecasts"]["checker"]["cost"]["gram"] = [[math.nan]]
    bent["forecasts"]["checker"]["cost"]["vector"] = [0.0]
    with pytest.raises(PluginError, match="forecast of cost"):
        made.load_state_dict(bent)


# Forecasts


def test_forecasts_are_ridge_regression_around_the_profile() -> None:
    rng = np.random.default_rng(0)
    x, made = rng.standard_normal((40, 3)), Forecast("cost", 2.0, ridge=1.5)
    y = 2.0 + x @ [0.5, -0.2, 0.0] + 0.1 * rng.standard_normal(40)
    for row, value in zip(x, y, strict=True):
        made.learn(row, float(value))
    rows, values = np.vstack([x, math.sqrt(1.5) * np.eye(3)]), np.append(y - 2.0, np.zeros(3))
    weights, *_ = np.linalg.lstsq(rows, values, rcond=None)  # ridge as least squares with rows of its own
    new = np.array([0.3, 0.1, -0.4])
    assert made.expected(new)[0] == pytest.approx(2.0 + float(new @ weights), rel=1e-9)


def test_intervals_hold_what_they_should() -> None:
    """95 % intervals of the expected success, over 300 worlds with 30 results each."""
    held = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        truth, made = rng.beta(4, 3), Forecast("success", 0.6)
        for _ in range(30):
            made.learn(np.array([1.0]), float(rng.random() < truth))
        found = made.interval(np.array([1.0]))
        held.append(found.low <= truth <= found.high)
    assert 0.91 <= np.mean(held) <= 0.99


def test_a_discount_forgets() -> None:
    old, new = Forecast("success", 0.5), Forecast("success", 0.5, discount=0.9)
    for made in (old, new):
        for value in [1.0] * 60 + [0.0] * 30:
            made.learn(np.array([1.0]), value)
    assert old.expected(np.array([1.0]))[0] > 0.6
    assert new.expected(np.array([1.0]))[0] < 0.1


# The benchmark


def test_the_benchmark_has_an_oracle_above_all_and_the_best_static_above_chance() -> None:
    found = create_tool_optimization_benchmark(example_tools(), example_tasks(), 30, repeats=2, registry=REGISTRY)
    assert (found.tasks, found.repeats) == (30, 2)
    assert found.of("oracle").regret.mean == 0
    assert 0 < found.of("best static").regret.mean < found.of("random").regret.mean
    assert found.of("learner").reward == pytest.approx(found.of("oracle").reward - found.of("learner").regret.mean / 30)
    assert len(found.of("learner").regrets) == len(found.of("learner").exploration) == 10
    assert found.covered > 0.8
    assert "30 tasks: regret" in found._headline()
    assert found._rows() == found.policies
    assert structure(json.loads(json.dumps(unstructure(found))), type(found), "benchmark") == found


def test_the_benchmark_takes_a_list_and_refuses_nothing_to_do() -> None:
    tools = list(example_tools().values())
    assert create_tool_optimization_benchmark(tools, example_tasks(), 3, repeats=1, registry=REGISTRY).tasks == 3
    with pytest.raises(DataError, match="a benchmark needs tasks"):
        create_tool_optimization_benchmark(tools, [], 100)
    off = ToolProfile("off", ToolType.SEARCH, reliability=0.0)
    with pytest.raises(DataError, match="needs a tool that is in use"):
        create_tool_optimization_benchmark([off], example_tasks(), 3, registry=REGISTRY)
    world = SimulatedTools.drawn({"off": off}, ["lookup"], np.random.default_rng(0))
    assert world.success("off", LOOKUP) == 0.0
