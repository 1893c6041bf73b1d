"""The discoverer: what it makes of a graph, and what it can be asked afterwards."""

from __future__ import annotations

import copy
import functools
import pickle
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.graph import Evidence, RelationType, TransferEdge, TransferGraph, relation_type
from crosstask.registry import Registry
from crosstask.tasks import Portfolio, Task
from crosstask_discovery.testing import digits, graph_of, part_of, transfer_world
from crosstask_gnn import TaskRelationshipGraph
from crosstask_gnn import task_relationship_graph as module
from crosstask_gnn.plugin import PLUGIN

SMALL = {"task_embedding_dim": 32, "hidden_dim": 32, "members": 1, "steps": 40, "folds": 3}


def named(count: int) -> list[str]:
    return [f"t{number:02}" for number in range(count)]


def described(count: int, prerequisites: dict[str, tuple[str, ...]] | None = None) -> Portfolio:
    """Tasks without data. The later ones are more complex."""
    return Portfolio(
        [
            Task(
                descriptor=TaskDescriptor(
                    task_id=name, complexity=number / count, prerequisites=(prerequisites or {}).get(name, ())
                )
            )
            for number, name in enumerate(named(count))
        ]
    )


def filled(portfolio: Portfolio, known: np.ndarray, estimates: np.ndarray, error: float = 0.03) -> TransferGraph:
    """A graph with an edge for every known coefficient, and one with raw estimates for every pair."""
    graph = graph_of(portfolio)
    for i, source in enumerate(portfolio.ids):
        for j, target in enumerate(portfolio.ids):
            if i == j:
                continue
            told = {f"estimator {k}": float(values[i, j]) for k, values in enumerate(estimates)}
            between = {"source": source, "target": target}
            estimated = {"evidence": Evidence.ESTIMATED, "found_by": "mean_z", "estimates": told}
            graph.add(TransferEdge(**between, transfer_coefficient=0.0, uncertainty=0.3, **estimated))
            if not np.isnan(known[i, j]):
                measured = {"evidence": Evidence.MEASURED, "found_by": "probe", "uncertainty": error}
                graph.add(TransferEdge(**between, transfer_coefficient=float(known[i, j]), **measured))
    return graph


def discoverer(**options: object) -> TaskRelationshipGraph:
    registry = Registry()
    registry.register(PLUGIN)
    made = TaskRelationshipGraph(**{**SMALL, **options})
    made.bind(LocalContext(registry=registry))
    return made


@functools.cache
def discovered() -> tuple[TaskRelationshipGraph, list[TransferEdge], np.ndarray, np.ndarray]:
    """(discoverer, its edges, truth, what was known) of 16 tasks; nothing measured into the last one."""
    truth, estimates, _ = transfer_world(16, seed=1)
    known = part_of(truth, 0.4)
    known[:, 15] = np.nan
    portfolio = described(16)
    made = discoverer()
    return made, made.discover(portfolio, filled(portfolio, known, estimates)), truth, known


def test_every_pair_that_was_not_measured_is_predicted_with_its_interval() -> None:
    made, edges, _, known = discovered()
    missing = np.isnan(known) & ~np.eye(16, dtype=bool)
    assert {(e.source, e.target) for e in edges} == {(named(16)[i], named(16)[j]) for i, j in np.argwhere(missing)}
    for edge in edges:
        assert edge.evidence is Evidence.PREDICTED
        assert edge.uncertainty is not None
        assert edge.uncertainty > 0
        told = made.predict_transfer_efficiency(edge.source, edge.target)
        assert (told.mean, told.low, told.high) == pytest.approx(
            (edge.transfer_coefficient, edge.low, edge.high), abs=1e-6
        )
        assert -1 <= told.low <= told.mean <= told.high <= 1


def test_it_is_right_directed_and_signed() -> None:
    made, edges, truth, _ = discovered()
    place = {name: number for number, name in enumerate(made.tasks)}
    at = np.array([(place[e.source], place[e.target]) for e in edges]).T
    told, right = np.array([e.transfer_coefficient for e in edges]), truth[tuple(at)]
    assert np.corrcoef(told, right)[0, 1] > 0.6
    assert (np.sign(told) == np.sign(right))[np.abs(right) > 0.2].mean() > 0.75
    assert (told < -0.1).any(), "what hurts is predicted to hurt"
    there_and_back = told - np.asarray(made.mean)[at[1], at[0]]
    assert np.corrcoef(there_and_back, right - truth[at[1], at[0]])[0, 1] > 0.5


def test_a_task_with_nothing_measured_into_it_is_ordered_by_its_estimates() -> None:
    made, edges, truth, _ = discovered()
    cold = [e for e in edges if e.target == "t15"]
    assert len(cold) == 15
    told = np.array([e.transfer_coefficient for e in cold])
    assert np.corrcoef(told, truth[:15, 15])[0, 1] > 0.4
    assert np.mean([e.uncertainty for e in cold]) > np.mean([e.uncertainty for e in edges if e.target != "t15"])
    assert made.chosen_cold


def test_the_heads_learn_types_and_difficulty() -> None:
    made, edges, truth, _ = discovered()
    found, most = [], []
    for edge in edges:
        chances = made.predict_relation(edge.source, edge.target)
        assert sum(chances.values()) == pytest.approx(1, abs=1e-4)
        i, j = (named(16).index(name) for name in (edge.source, edge.target))
        found.append((chances[RelationType.ANTAGONISTIC], truth[i, j] < 0))
        most.append((max(chances, key=lambda kind: chances[kind]), relation_type(float(truth[i, j]))))
    harmful, hurts = np.array(found).T
    assert harmful[hurts == 1].mean() > harmful[hurts == 0].mean() + 0.2
    assert abs(harmful.mean() - hurts.mean()) < 0.12, "as often as it is said"
    kinds = [right for _, right in most]
    commonest = max(kinds.count(kind) for kind in set(kinds))
    assert sum(told is right for told, right in most) > commonest
    hard = [made.predict_difficulty(name) for name in named(16)]
    assert np.corrcoef(hard, np.arange(16))[0, 1] > 0.8, "the descriptors' complexity"


def test_the_baselines_stand_beside_it() -> None:
    made, _, _, _ = discovered()
    assert {"source mean", "gnn", "decoder without messages", "soft-impute", "additive + estimates"} <= set(made.errors)
    assert made.errors["additive + estimates"] < made.errors["soft-impute"]
    assert sum(made.chosen.values()) == pytest.approx(1)


def test_where_the_networks_add_nothing_it_says_who_answered() -> None:
    rng = np.random.default_rng(0)
    portfolio = described(8)
    known = part_of(0.3 + 0.02 * rng.normal(size=(8, 8)), 0.6)
    made = discoverer(steps=3)
    edges = made.discover(portfolio, filled(portfolio, known, rng.normal(size=(2, 8, 8))))
    if "gnn" in made.chosen:  # by chance it may help; then it must have been seen to
        assert made.errors["gnn"] <= min(made.errors["additive + estimates"], made.errors["decoder without messages"])
    else:
        assert {e.found_by for e in edges} == {"gnn: " + " + ".join(made.chosen)}
        assert made.note.startswith("the network lowers no error on the measured pairs; predicted by ")


def test_nothing_measured_is_said() -> None:
    portfolio = described(5)
    graph = filled(portfolio, np.full((5, 5), np.nan), np.zeros((1, 5, 5)))
    made = discoverer()
    edges = made.discover(portfolio, graph)
    assert "nothing was measured" in made.note
    assert {e.found_by for e in edges} == {"gnn: stated estimates"}
    with pytest.raises(DataError, match="no network was trained"):
        made.predict_relation("t00", "t01")


def test_how_sure_a_measurement_is_counts() -> None:
    """A wild value with a large standard error moves the others less than the same value with a small one."""
    truth, estimates, _ = transfer_world(8, seed=3)
    known = part_of(truth, 0.7)
    place = tuple(np.argwhere(~np.isnan(known))[4])
    portfolio, means = described(8), []
    for value, error in ((known[place], 0.02), (known[place] + 1.2, 1.0), (known[place] + 1.2, 0.02)):
        graph = filled(portfolio, known, estimates, error=0.02)
        source, target = (portfolio.ids[at] for at in place)
        measured = {"evidence": Evidence.MEASURED, "found_by": "probe", "uncertainty": error}
        value = float(np.clip(value, -1, 1))
        graph.add(TransferEdge(source=source, target=target, transfer_coefficient=value, **measured))
        made = discoverer(steps=5)
        made.discover(portfolio, graph)
        means.append(np.asarray(made.mean)[:, place[1]])
    assert np.abs(means[1] - means[0]).max() < np.abs(means[2] - means[0]).max()


def test_curriculum_order() -> None:
    made = discoverer()
    made.tasks = ["easy", "hard", "harmful", "goal", "basics"]
    made.mean = torch.zeros(5, 5)
    made.mean[:, 3] = torch.tensor([0.2, 0.5, -0.3, 0.0, 0.1])
    made.std = torch.full((5, 5), 0.1)
    made.difficulty = torch.tensor([0.1, 0.9, 0.2, 0.5, 0.3])
    assert made.generate_curriculum_order("goal") == ["easy", "basics", "hard", "goal"]
    assert made.generate_curriculum_order("goal", max_tasks=2) == ["hard", "goal"]
    assert made.generate_curriculum_order("goal", minimum=0.15) == ["easy", "hard", "goal"]
    needs = {"easy": ("hard",), "hard": ("basics",)}
    tasks = [TaskDescriptor(task_id=name, prerequisites=needs.get(name, ())) for name in made.tasks]
    portfolio = Portfolio([Task(descriptor=task) for task in tasks])
    assert made.generate_curriculum_order("goal", portfolio=portfolio, max_tasks=2) == ["basics", "hard", "goal"]
    assert made.generate_curriculum_order("goal", portfolio=portfolio) == ["basics", "hard", "easy", "goal"]
    made.difficulty = None
    assert made.generate_curriculum_order("goal") == ["basics", "easy", "hard", "goal"]


def test_what_cannot_be_answered_says_why() -> None:
    with pytest.raises(DataError, match="call discover first"):
        discoverer().predict_transfer_efficiency("a", "b")
    made, _, _, _ = discovered()
    with pytest.raises(DataError, match=r"no task 't1x' .*t1"):
        made.predict_transfer_efficiency("t01", "t1x")
    with pytest.raises(DataError, match="both source and target"):
        made.predict_transfer_efficiency("t01", "t01")


def test_what_was_predicted_survives() -> None:
    made, _, _, _ = discovered()
    other = discoverer()
    other.load_state_dict(made.state_dict())
    assert other.predict_transfer_efficiency("t00", "t15") == made.predict_transfer_efficiency("t00", "t15")
    assert other.generate_curriculum_order("t15") == made.generate_curriculum_order("t15")


def test_on_digits() -> None:
    """Measured on two thirds of the pairs of real tasks, it finds which of the others is the best and which useless."""
    probing = pytest.importorskip("crosstask_probe.plugin", reason="measures with it")
    estimating = pytest.importorskip("crosstask_estimators.plugin", reason="estimates with it")
    methods = pytest.importorskip("crosstask_finetuning.plugin", reason="measures with lp_ft, which it has")

    registry = Registry()
    for plugin in (probing.PLUGIN, estimating.PLUGIN, methods.PLUGIN, PLUGIN):
        registry.register(plugin)
    portfolio = digits("ten", "parity", "low", "noise")
    graph = graph_of(portfolio)
    context = LocalContext(registry=registry)
    hidden = {("ten", "parity"), ("noise", "parity"), ("low", "noise"), ("parity", "low")}
    pairs = [(s.task_id, t.task_id) for s, t in portfolio.pairs() if (s.task_id, t.task_id) not in hidden]
    steps = [
        ("mean_z", {}, portfolio),
        ("probe", {"seeds": 2, "steps": 40}, portfolio.restricted(pairs)),
        ("gnn", {**SMALL, "steps": 10}, portfolio),
    ]
    for name, options, view in steps:
        for edge in context.component("discovery", name, options).discover(view, graph):
            graph.add(edge)
    found = {(e.source, e.target): e for e in graph.edges() if e.evidence is Evidence.PREDICTED}
    assert set(found) == hidden
    told = {pair: edge.transfer_coefficient for pair, edge in found.items()}
    assert told["ten", "parity"] > told["noise", "parity"]
    assert told["ten", "parity"] > told["low", "noise"], "there is nothing to gain for labels drawn at random"


def taught_later(seed: int = 0) -> TaskRelationshipGraph:
    truth, estimates, _ = transfer_world(6, seed=1)
    portfolio, made, registry = described(6), discoverer(), Registry()
    registry.register(PLUGIN)
    made.bind(LocalContext(seed=seed, registry=registry))
    made.discover(portfolio, filled(portfolio, part_of(truth, 0.5), estimates))
    return made


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_that_is_asked_outside_of_the_run_has_its_embeddings(copied: Callable[[object], object]) -> None:
    """The network is taught when embeddings are asked for: a copy, which leaves its run behind, drew other weights."""
    made = taught_later(seed=5)
    other = copied(made)
    torch.testing.assert_close(other.embeddings, made.embeddings, rtol=0, atol=0)  # type: ignore[attr-defined]


def test_whoever_asks_while_the_network_is_taught_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, teach = threading.Event(), module.teach

    def slowly(*given: object) -> object:
        begun.set()
        time.sleep(0.3)
        return teach(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "teach", slowly)
    made, found = taught_later(), []
    thread = threading.Thread(target=lambda: found.append(made.embeddings))
    thread.start()
    assert begun.wait(30)
    meanwhile = made.embeddings
    thread.join()
    assert meanwhile is not None
    assert meanwhile is found[0]


def test_a_lesson_that_failed_is_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object) -> object:
        raise MemoryError

    made = taught_later()
    with monkeypatch.context() as patch:
        patch.setattr(module, "teach", fails)
        with pytest.raises(MemoryError):
            _ = made.embeddings
    assert made.embeddings is not None
