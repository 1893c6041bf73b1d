"""The component: rounds, budget, what it hands on; a fake probe reads a known matrix, the last test measures digits."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np
import pytest

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.options import component, option
from crosstask.points.discovery import Discoverer
from crosstask.registry import Registry
from crosstask.tasks import Portfolio, Task
from crosstask_active import Active
from crosstask_active.active import UNKNOWN, belief
from crosstask_active.plugin import PLUGIN
from crosstask_discovery.testing import digits, graph_of

NAMES = [f"t{n}" for n in range(8)]
RNG = np.random.default_rng(0)
TRUTH = {(s, t): float(np.tanh(0.3 * RNG.normal())) for s in NAMES for t in NAMES if s != t}
GUESS = {pair: float(np.clip(value + 0.2 * RNG.normal(), -1, 1)) for pair, value in TRUTH.items()}


@component
class Guessing(Discoverer):
    """Says what it guesses, and learns nothing."""

    calls: list[int] = attrs.field(factory=list, init=False)

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        self.calls.append(sum(e.evidence is Evidence.MEASURED for e in graph.all_edges()))
        return [
            TransferEdge(
                source=s.task_id,
                target=t.task_id,
                transfer_coefficient=GUESS[s.task_id, t.task_id],
                evidence=Evidence.ESTIMATED,
                found_by="guess",
                uncertainty=0.2,
                estimates={"guess": GUESS[s.task_id, t.task_id]},
            )
            for s, t in portfolio.pairs()
        ]


@component
class Oracle(Discoverer):
    """Measures by reading the truth; refuses some pairs."""

    refused: tuple[str, ...] = option((), help="targets that cannot be measured")
    asked: list[tuple[str, str]] = attrs.field(factory=list, init=False)
    skipped: list[tuple[str, str, str]] = attrs.field(factory=list, init=False)
    capabilities: ClassVar[frozenset[str]] = frozenset()

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        pairs = [(s.task_id, t.task_id) for s, t in portfolio.pairs()]
        self.asked += pairs
        self.skipped = [(*pair, "refused") for pair in pairs if pair[1] in self.refused]
        fit = [pair for pair in pairs if pair[1] not in self.refused]
        if not fit:
            raise DataError("nothing can be measured: refused")
        return [
            TransferEdge(
                source=s,
                target=t,
                transfer_coefficient=TRUTH[s, t],
                evidence=Evidence.MEASURED,
                found_by="oracle",
                uncertainty=0.01,
            )
            for s, t in fit
        ]


def world(names: list[str] = NAMES) -> tuple[Portfolio, TransferGraph]:
    portfolio = Portfolio(Task(descriptor=TaskDescriptor(task_id=name)) for name in names)
    return portfolio, graph_of(portfolio)


def active(**options: Any) -> tuple[Active, Guessing, Oracle]:
    guess, oracle = Guessing(), options.pop("probe", Oracle())
    made = Active(**{"estimators": (guess,), "predictor": guess, "probe": oracle} | options)
    made.bind(LocalContext(registry=Registry()))
    return made, guess, oracle


def test_the_budget_is_spent_on_good_choices() -> None:
    portfolio, graph = world()
    made, guess, oracle = active(per_task=3, rounds=3)
    edges = made.discover(portfolio, graph)
    assert len(oracle.asked) == len(set(oracle.asked)) == 24
    assert made.measured == oracle.asked
    assert guess.calls == [0, 0, 8, 16, 24], "the estimator, before every round, and at the end"
    for edge in edges:
        graph.add(edge)
    assert len(graph.edges_into("t0")) == 7
    found = []
    for name in NAMES:
        column = {s: TRUTH[s, name] for s in NAMES if s != name}
        chosen = graph.edges_into(name)[0].source
        guessed = max(column, key=lambda s: GUESS[s, name])
        spread = max(column.values()) - np.mean(list(column.values()))
        found.append([(max(column.values()) - column[s]) / spread for s in (chosen, guessed)])
    ours, guessed = np.mean(found, axis=0)
    assert ours < 0.1 < guessed
    keys = [(e.source, e.target, e.evidence, e.found_by) for e in edges]
    assert len(keys) == len(set(keys))


def test_what_was_measured_before_is_not_measured_again() -> None:
    portfolio, graph = world()
    for edge in Oracle().discover(portfolio.restricted([(s, t) for s, t in TRUTH if t in NAMES[:4]]), graph):
        graph.add(edge)
    made, _, oracle = active()
    made.discover(portfolio, graph)
    assert len(oracle.asked) == 24
    assert not {t for _, t in oracle.asked} & set(NAMES[:4])


def test_estimates_that_are_there_are_not_made_again() -> None:
    portfolio, graph = world()
    for edge in Guessing().discover(portfolio, graph):
        graph.add(edge)
    made, guess, _ = active(rounds=2)
    made.discover(portfolio, graph)
    assert guess.calls == [0, 12, 24], "as predictor only"
    edges_before = len(list(graph.all_edges()))
    assert edges_before == 56, "nothing was added to the graph"


def test_a_new_task_costs_a_few_pairs() -> None:
    portfolio, graph = world()
    made, _, oracle = active(per_task=4)
    edges = made.discover(portfolio.focused("t3"), graph)
    assert len(oracle.asked) == 4
    assert all("t3" in (e.source, e.target) for e in edges)


def test_pairs_that_cannot_be_measured_are_not_chosen_again() -> None:
    portfolio, graph = world()
    made, _, oracle = active(probe=Oracle(refused=("t1", "t2")), rounds=4)
    edges = made.discover(portfolio, graph)
    assert len(oracle.asked) == len(set(oracle.asked))
    assert len(made.measured) >= 18
    assert {t for _, t, _ in made.skipped} <= {"t1", "t2"}
    assert {e.target for e in edges if e.evidence is Evidence.MEASURED} <= set(NAMES) - {"t1", "t2"}
    made, _, _ = active(probe=Oracle(refused=tuple(NAMES)))
    with pytest.raises(DataError, match="refused"):
        made.discover(portfolio, graph)


def test_without_a_predictor_the_estimator_predicts() -> None:
    portfolio, graph = world()
    made, guess, oracle = active(predictor=None, rounds=1)
    made.discover(portfolio, graph)
    assert guess.calls == [0, 0, 24]
    made, _, oracle = active(predictor=None, estimators=())
    edges = made.discover(portfolio, graph)
    assert len(oracle.asked) == 24
    assert {e.found_by for e in edges} == {"oracle"}


def test_what_an_edge_says() -> None:
    edge = TransferEdge(source="a", target="b", transfer_coefficient=0.3)
    assert belief(edge) == (0.3, UNKNOWN)
    assert belief(attrs.evolve(edge, uncertainty=0.1)) == (0.3, 0.1)
    assert belief(None) == (0.0, UNKNOWN)


def test_on_digits() -> None:
    """Eight of twelve pairs are measured, the others predicted from these."""
    probing = pytest.importorskip("crosstask_probe.plugin", reason="measures with it")
    estimating = pytest.importorskip("crosstask_estimators.plugin", reason="estimates with it")
    methods = pytest.importorskip("crosstask_finetuning.plugin", reason="measures with lp_ft, which it has")

    registry = Registry()
    for plugin in (probing.PLUGIN, estimating.PLUGIN, methods.PLUGIN, PLUGIN):
        registry.register(plugin)
    portfolio = digits("ten", "parity", "low", "noise")
    graph = graph_of(portfolio)
    options = {"use": "probe", "seeds": 4, "steps": 40}
    made = Active(per_task=2, rounds=2, probe=options, predictor="mean_z")
    made.bind(LocalContext(registry=registry))
    for edge in made.discover(portfolio, graph):
        graph.add(edge)
    assert len(made.measured) == 8
    assert sum(edge.evidence is Evidence.MEASURED for edge in graph.edges()) == 8
    assert graph.edges_into("parity")[0].source == "ten", "what the ten classes determine"
    assert graph.edges_into("noise")[0].transfer_coefficient < 0.2, "no source helps with labels drawn at random"
    assert len(list(graph.edges())) == 12
