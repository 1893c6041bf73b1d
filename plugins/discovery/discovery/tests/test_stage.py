"""The stage: who is asked, in what order, what is kept of it, and what the report shows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from crosstask.descriptors import TaskDescriptor
from crosstask.engine import TransferEngine
from crosstask.errors import DataError, OptionError, RecipeError
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.manifest import Extension, Plugin
from crosstask.options import component, option, structure, unstructure
from crosstask.points.discovery import Discoverer
from crosstask.points.observer import Observer
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.tasks import Portfolio, Task
from crosstask_discovery import Discovery, DiscoveryResult
from crosstask_discovery.plugin import PLUGIN

WORTH = {("a", "b"): 0.4, ("a", "c"): -0.3, ("b", "a"): 0.1, ("b", "c"): 0.2, ("c", "a"): 0.0, ("c", "b"): -0.1}
ASKED: list[str] = []


class Saying(Discoverer):
    """Edges of this evidence between all pairs."""

    evidence = Evidence.ESTIMATED

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        ASKED.append(f"{self.name}{f' of {portfolio.focus}' if portfolio.focus else ''}")
        return [
            TransferEdge(
                source=s.task_id, target=t.task_id, transfer_coefficient=WORTH.get((s.task_id, t.task_id), 0.05),
                low=WORTH.get((s.task_id, t.task_id), 0.05) - 0.05, high=WORTH.get((s.task_id, t.task_id), 0.05) + 0.05,
                evidence=self.evidence, found_by=self.name,
            )
            for s, t in portfolio.pairs()
        ]  # fmt: skip


@component
class Guess(Saying):
    """From descriptors."""

    capabilities = frozenset({"descriptors_only"})


@component
class Measure(Saying):
    """Not all of them."""

    evidence = Evidence.MEASURED
    seeds: int = option(3, ge=1, help="repeats")
    skipped: Any = option(factory=list, help="unused")

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        assert all(graph.edge(s.task_id, t.task_id) for s, t in portfolio.pairs()), "sees what the first one found"
        assert all(task.model is not None for task in portfolio)
        edges = super().discover(portfolio, graph)
        self.skipped = [("c", "b", "too far")]
        return [edge for edge in edges if (edge.source, edge.target) != ("c", "b")]


FAKES = Plugin(
    "fakes",
    [
        Extension("discovery", "measure", f"{__name__}:Measure", default=2),
        Extension("discovery", "guess", f"{__name__}:Guess", default=1),
    ],
    api=(2, 0),
)


class Listening(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []

    def edges_discovered(self, edges: list[TransferEdge], discoverer: str) -> None:
        self.heard.append((discoverer.split("'")[1], len(edges)))


@pytest.fixture(autouse=True)
def reset() -> None:
    ASKED.clear()


def engine(names: str = "abc", unseen: str = "", **given: Any) -> TransferEngine:
    registry = Registry()
    registry.register(PLUGIN)
    registry.register(FAKES)

    def task(name: str) -> Task:
        rows = ([[float(n), 1.0] for n in range(8)], [0, 1] * 4)
        about = TaskDescriptor(task_id=name, input_shape=(2,), output_dim=2)
        return Task(descriptor=about, train=rows, validation=rows, test=rows)

    made = TransferEngine(registry=registry, train=Budget(steps=1), auto_discover=False, **given)
    made.register(Portfolio(map(task, names), unseen=map(task, unseen)))
    return made


def test_the_discoverers_are_asked_in_order_and_the_result_says_what_they_found() -> None:
    listening = Listening()
    with engine(unseen="u", seed=5, observers=[listening]) as made:
        outcome = made.run_stage("discovery", discoverers=["guess", {"use": "measure", "seeds": 7}])
        assert made.graph.edge("a", "b").evidence is Evidence.MEASURED
        assert made.graph.edge("a", "u").found_by == "guess"
    assert ASKED == ["guess of u", "guess", "measure"]
    assert listening.heard == [("guess", 3), ("guess", 6), ("measure", 5)]
    result = outcome.record
    assert (result.tasks, result.unseen_tasks, result.negative_transfer_pairs, result.seed) == (3, 1, 1, 5)
    assert [(p.source, p.target, p.mean) for p in result.measured] == [(*pair, v) for pair, v in WORTH.items()][:5]
    assert result.gives == {"a": pytest.approx(0.05), "b": pytest.approx(0.15), "c": 0.0}
    assert result.receives == {"b": 0.4, "c": pytest.approx(-0.05), "a": pytest.approx(0.05)}
    assert result.repeats == {"measure": 7}
    assert list(result.skipped.values()) == [(("c", "b", "too far"),)]
    assert result.metrics == made.graph.metrics()
    assert Discovery.summary(result) == {
        "tasks": 3, "unseen_tasks": 1, "measured_pairs": 5, "pairs_only_predicted": 4, "pairs_left_out": 1,
        "impossible_pairs": 0, "mean_measured_coefficient": pytest.approx(sum([*WORTH.values()][:5]) / 5),
        "strongest_helper": "b", "negative_transfer_pairs": 1,
    }  # fmt: skip


def test_the_default_are_those_that_manifests_mark_in_their_order() -> None:
    with engine() as made:
        assert len(made.run_stage("discovery").record.measured) == 5
    assert ASKED == ["guess", "measure"]


def test_no_model_is_trained_for_descriptors() -> None:
    with engine() as made:
        result = made.run_stage("discovery", discoverers=["guess"]).record
        assert all(task.model is None for task in made.portfolio)
    assert (result.measured, result.skipped, result.repeats) == ((), {}, {})
    assert result.metrics["evidence"] == {"estimated": 6}


def test_the_record_survives_json() -> None:
    with engine() as made:
        result = made.run_stage("discovery").record
    again = structure(json.loads(json.dumps(unstructure(result))), DiscoveryResult, "stored")
    assert again == result


def test_what_does_not_fit_is_said_before_any_work() -> None:
    with engine("a") as made, pytest.raises(RecipeError, match=r"^discovery: two tasks are needed .*; there is 'a'$"):
        made.run_stage("discovery")
    with engine() as made, pytest.raises((OptionError, DataError, LookupError), match="did you mean 'guess'"):
        made.run_stage("discovery", discoverers=["gues"])
    assert ASKED == []


class Embeds:
    """As a discoverer that has made numbers of the tasks."""

    def task_embeddings(self) -> dict[str, tuple[float, ...]]:
        return {"a": (0.5, 1.0), "u": (2.0,), "elsewhere": (3.0,)}


def test_embeddings_go_into_the_descriptors_of_the_tasks_and_of_the_graph() -> None:
    with engine(unseen="u") as made:
        before = made.portfolio["a"].fingerprint()
        made._embed([object(), Embeds()])
        for name, wanted in (("a", (0.5, 1.0)), ("u", (2.0,)), ("b", None)):
            assert made.portfolio[name].descriptor.embedding == wanted
            assert made.graph.task(name).embedding == wanted
        assert made.portfolio["a"].fingerprint() == before


def test_pairs_that_cannot_be_are_in_the_graph_and_in_the_record() -> None:
    with engine() as made:
        other = TaskDescriptor(task_id="wide", input_shape=(3,), output_dim=2)
        rows = ([[float(n), 1.0, 2.0] for n in range(8)], [0, 1] * 4)
        made.register_task(Task(descriptor=other, train=rows, validation=rows, test=rows))
        made.register_task(Task(descriptor=TaskDescriptor(task_id="bare", input_shape=(2,), output_dim=2)))
        made.train()
        result = made.run_stage("discovery", discoverers=["guess"]).record
        impossible = dict(made.graph.impossible)
    assert impossible["a", "wide"] == "the model of 'a' takes inputs (2,), 'wide' has (3,)"
    assert impossible["bare", "a"] == "task 'bare' has no trained model"
    assert impossible["a", "bare"] == "task 'bare' has no train data"
    assert not set(impossible) & {(x, y) for x in "abc" for y in "abc"}
    assert {(s, t): why for s, t, why in result.impossible} == impossible
    assert Discovery.summary(result)["impossible_pairs"] == len(impossible)


def test_a_model_that_is_not_trained_yet_makes_nothing_impossible() -> None:
    with engine() as made:
        made.run_stage("discovery", discoverers=["guess"])
        assert not made.graph.impossible
