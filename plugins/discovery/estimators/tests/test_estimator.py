"""The discoverers on real digits: one forward pass for each pair, edges, calibration, and what cannot be estimated."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
import torch

import crosstask_estimators as package
from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.learning.training import fit
from crosstask.options import component, option, state
from crosstask.points.discovery import Discoverer
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.run import Run
from crosstask.store import open_store
from crosstask.tasks import Portfolio, Task
from crosstask_discovery.calibration import within_targets
from crosstask_discovery.estimator import Estimator
from crosstask_discovery.testing import digit_task, digits, graph_of, images
from crosstask_estimators import CKA, KNN, LEEP, NCE, HScore, LogME, MeanZ, Ridge, TransRate
from crosstask_estimators.logme import logme
from crosstask_estimators.plugin import PLUGIN

ALL = ("LogME", "LEEP", "NCE", "HScore", "TransRate", "GBC", "CKA", "KNN", "Ridge", "Fisher")


def made(kind: type[Estimator], context: Any = None, **options: Any) -> Any:
    component = kind(**options)
    component.bind(context or LocalContext())
    return component


@pytest.mark.parametrize("name", ALL)
def test_the_better_source_on_digits(name: str) -> None:
    """A model of all ten digits has the low ones' features; one of shuffled labels, or of turned images, has not."""
    portfolio = digits()
    component = made(getattr(package, name))
    edges = component.discover(portfolio, graph_of(portfolio))
    assert [(e.source, e.target) for e in edges] == [(s.task_id, t.task_id) for s, t in portfolio.pairs()]
    raw = {(e.source, e.target): e.estimates[component.known_as] for e in edges}
    assert raw["ten", "low"] > max(raw["noise", "low"], raw["turned", "low"])
    for edge in edges:
        assert edge.evidence is Evidence.ESTIMATED
        assert edge.found_by == component.known_as
        assert edge.low <= edge.transfer_coefficient <= edge.high
    assert max(edges, key=lambda e: e.transfer_coefficient if e.target == "low" else -1).source == "ten"


def test_the_value_is_that_of_the_function() -> None:
    portfolio = digits()
    context = LocalContext(seed=4)
    component = made(LogME, context, samples=None)
    edges = component.discover(portfolio.restricted([("ten", "low")]), graph_of(portfolio))
    low = portfolio["low"].data("train")
    with torch.no_grad():
        features = portfolio["ten"].model.trunk(low.inputs)
    assert edges[0].estimates == {"logme": pytest.approx(logme(features, low.targets), rel=1e-6)}


def test_one_forward_pass_for_each_pair(tmp_path: Path) -> None:
    """Shared by all estimators of a run, and by the next run with the same store; a retrained source is passed anew."""
    portfolio, passes = digits(), []
    for t in portfolio:
        t.model.register_forward_hook(lambda module, given, out: passes.append(len(given[0])))
    names = ("logme", "leep", "knn", "cka", "gbc")
    registry = Registry()
    registry.register(PLUGIN)
    store = open_store(str(tmp_path / "store.db"))
    found = []
    for _ in range(2):
        with Run(registry, seed=1, store=store) as run:
            for name in names:
                component = run.component("discovery", name, {"samples": 50})
                found.append(run.call(component, "discover", portfolio=portfolio, graph=graph_of(portfolio)))
        assert passes == [50] * 20
    assert found[: len(names)] == found[len(names) :]
    with Run(registry, seed=1, store=store) as run:
        with torch.no_grad():
            portfolio["ten"].model.head.bias[0] += 1
        component = run.component("discovery", "leep", {"samples": 50})
        run.call(component, "discover", portfolio=portfolio, graph=graph_of(portfolio))
        assert passes == [50] * 24
        component = run.component("discovery", "leep", {"samples": 60})
        run.call(component, "discover", portfolio=portfolio, graph=graph_of(portfolio))
        assert passes == [50] * 24 + [60] * 20
    store.close()


def test_what_cannot_be_estimated_is_said() -> None:
    portfolio = Portfolio(list(digits()), unseen=[digit_task("hidden", images()[1] % 3, learned=False)])
    portfolio.add(Task(descriptor=TaskDescriptor(task_id="bare", output_dim=2)))
    portfolio.add(digit_task("raw", images()[1] % 3, learned=False))
    wide = TaskDescriptor(task_id="wide", input_shape=(5,), output_dim=2)
    portfolio.add(Task(descriptor=wide, train=(torch.ones(4, 5), [0, 1, 0, 1])))
    component = made(LEEP)
    edges = component.discover(portfolio, graph_of(portfolio))
    assert len(edges) == 20 + 5
    assert ("raw", "ten", "task 'raw' has no trained model") in component.skipped
    assert ("ten", "bare", "task 'bare' has no train data") in component.skipped
    assert ("ten", "wide", "the model of 'ten' takes inputs (1, 8, 8), 'wide' has (5,)") in component.skipped
    with pytest.raises(DataError, match="'hidden' is held back as unseen"):
        component.discover(portfolio.focused("hidden"), graph_of(portfolio))
    with pytest.raises(DataError, match="task 'wide' has no trained model to compare features with"):
        made(CKA, against="model").discover(
            Portfolio(
                [
                    digit_task("ten", images()[1]),
                    Task(
                        descriptor=attrs.evolve(wide, input_shape=()),
                        train=(images()[0][:40], images()[1][:40] % 2),
                    ),
                ]
            ).restricted([("ten", "wide")]),
            TransferGraph(),
        )


def test_regression_targets() -> None:
    pictures, _ = images()
    values = pictures.sum(dim=(1, 2, 3))[:, None]
    ink = Task(
        descriptor=TaskDescriptor(task_id="ink", task_type="regression", input_shape=(1, 8, 8), output_dim=1),
        train=(pictures[:400], values[:400]),
    )
    from crosstask.learning.models import ModelSpec

    ink.model = ModelSpec(hidden=(16,)).build(ink.descriptor, 0)
    fit(ink.model, ink, Budget(steps=100, learning_rate=1e-2), torch.Generator().manual_seed(0))
    portfolio = Portfolio([*digits(), ink])
    for kind in (LogME, CKA, KNN, Ridge):
        component = made(kind)
        assert len(component.discover(portfolio, graph_of(portfolio))) == 30
        assert component.skipped == []
    component = made(TransRate)
    assert len(component.discover(portfolio, graph_of(portfolio))) == 25
    assert "'ink' is of type 'regression', 'transrate' needs classification" in component.skipped[0][2]
    component = made(NCE)
    component.discover(portfolio, graph_of(portfolio))
    assert ("ink", "ten", "task 'ink' is of type 'regression', not classification") in component.skipped
    (edge,) = made(Ridge).discover(portfolio.restricted([("ten", "ink")]), graph_of(portfolio))
    assert edge.estimates["ridge"] > 0.5


def test_cka_against_the_targets_own_model() -> None:
    portfolio = digits()
    edges = made(CKA, against="model").discover(portfolio, graph_of(portfolio))
    raw = {(e.source, e.target): e.estimates["cka"] for e in edges}
    assert raw["ten", "low"] > raw["noise", "low"]
    assert raw["ten", "parity"] > raw["turned", "parity"]


# --- The mean


def test_the_mean_of_scores() -> None:
    portfolio, context = digits(), LocalContext(registry=_registry())
    graph = graph_of(portfolio)
    component = made(MeanZ, context, estimators=("logme", {"use": "knn", "neighbours": 1}, HScore()), samples=80)
    edges = component.discover(portfolio, graph)
    parts = [made(LogME, context, samples=80), made(KNN, context, samples=80, neighbours=1), made(HScore, context)]
    names = ("logme", "knn", "hscore")
    raw = [
        {(e.source, e.target): e.estimates[n] for e in p.discover(portfolio, graph)}
        for n, p in zip(names, parts, strict=True)
    ]
    for edge in edges:
        pair = edge.source, edge.target
        assert edge.estimates == {n: values[pair] for n, values in zip(names, raw, strict=True)} | {
            "mean_z": pytest.approx(np.mean([within_targets(values)[pair] for values in raw]))
        }
    best = max((e for e in edges if e.target == "low"), key=lambda e: e.transfer_coefficient)
    assert best.source == "ten"


def _registry() -> Registry:
    registry = Registry()
    registry.register(PLUGIN)
    return registry


def test_estimators_that_cannot_say_anything_are_left_out_of_the_mean() -> None:
    pictures, _ = images()
    ink = Task(
        descriptor=TaskDescriptor(task_id="ink", task_type="regression", input_shape=(1, 8, 8), output_dim=1),
        train=(pictures[:400], pictures[:400].sum(dim=(1, 2, 3))[:, None]),
    )
    portfolio, context = Portfolio([*digits(), ink]), LocalContext(registry=_registry())
    component = made(MeanZ, context)
    edges = component.discover(portfolio.focused("ink"), graph_of(portfolio))
    assert {tuple(e.estimates) for e in edges} == {("logme", "cka", "knn", "ridge", "mean_z")}
    assert {(s, t) for s, t, _ in component.skipped} == {("ink", t.task_id) for t in digits()}
    bare = Portfolio([Task(descriptor=TaskDescriptor(task_id=t)) for t in "ab"])
    with pytest.raises(DataError, match=r"no pair of portfolio .* can be estimated: task 'a' has no trained model"):
        made(MeanZ, context).discover(bare, TransferGraph())


@component
class Lengths(Discoverer):
    """No estimator of a pass: it says something of the names, and leaves out who has a short one."""

    capabilities: ClassVar[frozenset[str]] = frozenset()
    least: int = option(3, ge=0, help="letters of a source's name")
    skipped: list[tuple[str, str, str]] = state(factory=list)

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        pairs = list(portfolio.pairs())
        self.skipped = [(s.task_id, t.task_id, "too short") for s, t in pairs if len(s.task_id) < self.least]
        return [
            TransferEdge(source=s.task_id, target=t.task_id, transfer_coefficient=0.0, estimates={"letters": float(n)})
            for s, t in pairs
            if (n := len(s.task_id)) >= self.least
        ]


@component
class Twice(LogME):
    """An estimator with a way of its own to go about the pairs."""

    known_as: ClassVar[str] = "twice"

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        return [attrs.evolve(edge, estimates={"twice": 2 * edge.estimates["twice"]})
                for edge in super().discover(portfolio, graph)]  # fmt: skip


def test_the_mean_of_estimators_and_of_others() -> None:
    portfolio, context = digits("ten", "low", "parity"), LocalContext(registry=_registry())
    graph = graph_of(portfolio)
    component_ = made(MeanZ, context, estimators=(LogME(), Lengths(least=4), Twice()))
    edges = {(e.source, e.target): e.estimates for e in component_.discover(portfolio, graph)}
    assert {pair: e.get("letters") for pair, e in edges.items() if pair[1] == "ten"} == {
        ("low", "ten"): None, ("parity", "ten"): 6.0
    }  # fmt: skip
    for known in edges.values():
        assert known["twice"] == 2 * known["logme"]
    assert component_.skipped == []
    with pytest.raises(DataError, match=r"no pair of portfolio .* can be estimated: too short"):
        made(MeanZ, context, estimators=(Lengths(least=9),)).discover(portfolio, graph)
