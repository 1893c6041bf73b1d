"""The stage `routing`: what it finds, refuses and shows; contexts of requests; the recipe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from crosstask import ModelSpec, Portfolio, Task, TaskDescriptor, TransferEngine
from crosstask.errors import RecipeError
from crosstask.graph import TransferGraph
from crosstask.options import component
from crosstask.testing import conformance, reference_registry, small_portfolio
from crosstask_routing.contract import Decision
from crosstask_routing.linear import LinearRouter
from crosstask_routing.records import RoutingResult
from crosstask_routing.requests import Views, _labels
from crosstask_routing.stage import Routing
from crosstask_routing.testing import REFERENCE, ReferenceRouter

REGISTRY = reference_registry(REFERENCE)
SMALL: dict[str, Any] = {"tasks": ["moons", "turned"], "requests": 20}

test_stage = conformance(Routing, options=SMALL, registry=REGISTRY)


def places() -> Portfolio:
    """Two tasks in different places of the plane, where the same side has another class, and one of three classes."""
    generator, tasks = torch.Generator().manual_seed(0), []
    for name, shift, turn in (("left", -4.0, 1), ("right", 4.0, -1)):
        splits = {}
        for split, count in (("train", 200), ("test", 80)):
            x = torch.randn(count, 2, generator=generator)
            splits[split] = (x + torch.tensor([shift, 0.0]), (turn * x[:, 1] > 0).long())
        tasks.append(Task(descriptor=TaskDescriptor(task_id=name, output_dim=2), **splits))
    x = torch.randn(30, 2, generator=generator)
    data = (x, torch.arange(30) % 3)
    tasks.append(Task(descriptor=TaskDescriptor(task_id="three", output_dim=3), train=data, test=data))
    return Portfolio(tasks)


def ran(portfolio: Portfolio | None = None, **given: Any) -> RoutingResult:
    with TransferEngine(registry=REGISTRY, discoverers=[], seeds=2, model=ModelSpec(hidden=[8])) as engine:
        engine.register(portfolio or places())
        engine.train(["left", "right"])
        found: RoutingResult = engine.run_stage("routing", **given).record
        return found


@component
class Upper(LinearRouter):
    """Upper bounds, quickly."""

    def choose(self, context: Any, tools: Any) -> Any:
        x, theta, inverse = self.arms.look(context, tools)
        best = int((theta @ x + np.sqrt((inverse @ x) @ x)).argmax())
        return Decision(tools[best], float(best != (theta @ x).argmax()), theta @ x)


@component
class First(ReferenceRouter):
    """Always the first tool."""

    def choose(self, context: Any, tools: Any) -> Any:
        return super().choose(context, tools)._replace(tool=tools[0], exploration=0.0)


def test_it_learns_whom_to_ask_and_beats_one_tool_for_all() -> None:
    networks = [{"hidden": [64, 64]}, {"hidden": [64, 64]}]
    result = ran(routers=[Upper(), First()], requests=400, generalists=networks, cost_weight=0.3)
    assert result.tasks == ("left", "right")
    assert result.tools == ("left", "right", "all by mlp 64-64", "all by mlp 64-64 2")
    assert result.accuracy["left"][0] > 0.9 > 0.3 > result.accuracy["left"][1]
    assert max(result.costs.values()) == 1.0
    assert result.routers == ("Upper", "First")
    ours, static, oracle = (result.of(name) for name in ("Upper", "best static", "oracle"))
    assert oracle.regret.mean == 0
    assert ours.success_rate > 0.8
    assert len(ours.exploration) == len(ours.regrets) == 10
    assert result.of("First").regret.mean > 3 * max(ours.regret.mean, 1)
    assert np.isclose(sum(result.chosen["Upper"]["left"]), 1)
    assert Routing.summary(result)["routing_Upper"].endswith(f"the best single tool {static.success_rate:.3f}")
    (section,) = Routing.sections(result, TransferGraph())
    assert "No better than one tool for all</strong>: First" in section.html
    assert "Whom Upper asks" in section.html


def test_without_a_name_it_is_the_default_router_and_two_of_one_are_numbered() -> None:
    assert ran(requests=10).routers == ("reference",)
    result = ran(requests=10, routers=["reference", "reference"])
    assert result.routers == ("reference 1", "reference 2")
    assert result.of("reference 1").regret == result.of("reference 2").regret
    (section,) = Routing.sections(result, TransferGraph())
    assert section.title == "Routing"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"tasks": ["left", "three"]},
            r"tasks: task 'three' has inputs \(2,\) and 3 classes, 'left' has inputs .* 2 cl",
        ),
        ({"tasks": ["left"]}, "at least two classification tasks"),
        ({"tasks": ["leftt", "right"]}, "no task 'leftt'"),
        ({"tasks": ["left", "told"]}, "'told' is no classification of plain inputs with training and test data"),
        ({"cost_weight": 2.0}, "cost_weight"),
    ],
)
def test_refused_before_any_work(given: dict[str, Any], told: str) -> None:
    portfolio = places()
    portfolio.add(Task(descriptor=TaskDescriptor(task_id="told", output_dim=2)))
    with TransferEngine(registry=REGISTRY, discoverers=[]) as engine:
        engine.register(portfolio)
        with pytest.raises((RecipeError, ValueError), match=told):
            engine.run_stage("routing", **given)


def test_nothing_to_mix_is_refused() -> None:
    with pytest.raises(RecipeError, match="at least two"):
        Routing().check(Portfolio([next(iter(small_portfolio(models=False)))]))


def test_contexts_say_which_task_an_input_looks_like() -> None:
    tasks = list(places())[:2]
    views = Views.of(tasks)
    found = views.contexts(tasks[0].data("test").inputs)
    assert found.shape == (80, 3)
    assert np.allclose(found[:, 0], 1)
    assert np.allclose(found[:, 1:].sum(axis=1), 1)


def test_labels_of_one_output() -> None:
    assert _labels(torch.tensor([[0.3], [-0.2]])).tolist() == [1, 0]
    assert _labels(torch.tensor([-1.0, 2.0])).tolist() == [0, 1]
