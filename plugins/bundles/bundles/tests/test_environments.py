"""From one environment to another: measured and exported here, verified, imported and used there."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from crosstask import Budget, ModelSpec, Portfolio, Registry, Task, TaskDescriptor, TransferEngine, TransferGraph
from crosstask.errors import GraphError
from crosstask.graph import Evidence, TransferEdge
from crosstask.points.distillation import Distilled
from crosstask.records import Curriculum, MetaKnowledge
from crosstask.store import open_store, upkeep
from crosstask.testing.commands import installed
from crosstask_bundles import (
    Bundle,
    BundledTask,
    BundleError,
    Imported,
    create_transfer_manifest,
    export,
    import_bundle,
    keep,
    open_bundle,
    write_bundle,
)
from crosstask_bundles.carried import MeasuredDigits
from crosstask_bundles.keeping import KIND, kept
from crosstask_bundles.merging import gather

TASKS = ("parity", "above_four", "loop")
MODEL, TRAIN, BUDGET = ModelSpec(kind="mlp", hidden=[16]), Budget(steps=60), Budget(steps=20, samples=40)

MEASURE = """
import sys
from pathlib import Path
from crosstask import Budget, ModelSpec, Registry, TransferEngine
from crosstask_bundles import export, write_bundle

tasks = Registry.installed().create("source", "digits", {{"tasks": {tasks!r}}}).load()
engine = TransferEngine(model=ModelSpec(kind="mlp", hidden=[16]), train=Budget(steps=60),
                        budget=Budget(steps=20, samples=40), discoverers=["probe"], seeds=2, seed=5, store="a.db",
                        run_id="run of A")
with engine:
    engine.register(tasks)
    engine.discover()
    write_bundle(export(engine, licence="CC0-1.0", name="from A", weights=True), Path("from-a.ctb"))
"""


@functools.cache
def _loaded() -> Portfolio:
    made: Portfolio = Registry.installed().create("source", "digits", {"tasks": [*TASKS, "rotated"]}).load()
    return made


def digits(*names: str) -> Portfolio:
    """Fresh tasks over the same data, which are read once."""
    return Portfolio(copied(_loaded()[name], name) for name in names or TASKS)


def copied(task: Task, name: str) -> Task:
    """The same data under this name."""
    splits = {split: task.data(split) for split in ("train", "validation", "test") if task.has_data(split)}
    alone = {} if name == task.task_id else {"task_id": name, "prerequisites": ()}
    return Task(descriptor=attrs.evolve(task.descriptor, **alone), **splits)


@pytest.fixture(scope="module")
def from_a(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """What environment A, a process of its own in a fresh folder, has measured and exported."""
    folder = tmp_path_factory.mktemp("a")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.format(tasks=list(TASKS))], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return open_bundle(folder / "from-a.ctb")


@pytest.fixture(autouse=True, scope="module")
def one_registry() -> Iterator[Registry]:
    """The manifests of all that is installed are read once."""
    with installed(Registry.installed()) as registry:
        yield registry


def environment_b(store: Path, *names: str, **more: Any) -> TransferEngine:
    """Another seed, another store: of `from A` it knows nothing."""
    given = {"model": MODEL, "train": TRAIN, "budget": BUDGET, "seeds": 2, "seed": 1, "discoverers": [], **more}
    engine = TransferEngine(store=store, **given)
    engine.register(digits(*names))
    return engine


def test_an_imported_bundle_changes_the_advice_elsewhere(from_a: Bundle, tmp_path: Path) -> None:
    with environment_b(tmp_path / "b.db") as engine:
        before = engine.advise("parity", share=0.0)
        assert not list(engine.graph.edges())
        assert all("measured" not in row.evidence for row in before.rows)
        use = import_bundle(from_a, engine)
        after = engine.advise("parity", share=0.0)
    assert use.matched == {task: task for task in TASKS}
    assert (use.edges, use.left_out, use.licence, use.run_id) == ({"measured": 6}, 0, "CC0-1.0", "run of A")
    assert after.text != before.text
    assert {row.source: row.evidence.startswith("measured") for row in after.rows} == {"above_four": True, "loop": True}
    told = {edge.source: edge for edge in from_a.manifest.edges if edge.target == "parity"}
    best = max(told.values(), key=lambda edge: edge.transfer_coefficient)
    if best.transfer_coefficient > 0:
        assert after.source == best.source
    edge = engine.graph.edge(best.source, "parity")
    assert edge is not None
    assert edge.evidence is Evidence.MEASURED
    assert edge.origin == "run of A"
    assert edge.found_by == f"probe (bundle from A {from_a.digest[:8]})"
    assert edge.when == best.when


def test_twice_changes_nothing(from_a: Bundle, tmp_path: Path) -> None:
    with environment_b(tmp_path / "b.db") as engine:
        graphs = []
        for _ in range(2):
            import_bundle(from_a, engine, models=True)
            graphs.append((engine.graph.to_json(), len(engine.portfolio), engine.meta_knowledge, engine.curricula))
        assert graphs[0] == graphs[1]


def test_through_a_store_later_runs_know_it(from_a: Bundle, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "b.db"))
    assert [keep(from_a, store) for _ in range(3)] == [True, False, False]
    store.close()
    with environment_b(tmp_path / "b.db") as engine:
        graph = engine.discover([Imported(bundles=[])])
        assert {(e.source, e.target) for e in graph.measured_edges()} >= {("loop", "parity"), ("parity", "above_four")}
        names = {edge.found_by for edge in graph.all_edges()}
        assert any(f"bundle from A {from_a.digest[:8]}" in name for name in names)
    with environment_b(tmp_path / "c.db") as engine:  # another store: only what is installed
        found = engine.discover([Imported()])
        assert all("from A" not in edge.found_by for edge in found.all_edges())
        assert not list(engine.discover([Imported(stored=False, bundles=[str(from_a.path)])]).impossible)


def test_pooled_with_what_is_measured_here(from_a: Bundle, tmp_path: Path) -> None:
    """After `probe`, the edges hold both measurements, weighted by their errors (closed form where they agree)."""
    with environment_b(tmp_path / "b.db") as engine:
        engine.discover(["probe"])
        own = {(e.source, e.target): e for e in engine.graph.measured_edges()}
        imported = Imported(bundles=[str(from_a.path)])
        engine.discover([imported])
        theirs = {(e.source, e.target): e for e in from_a.manifest.edges}
        agreeing = 0
        for pair, one in own.items():
            both, other = engine.graph.edge(*pair), theirs[pair]
            assert both is not None
            assert len(both.measurements) == 2
            ends = sorted((one.transfer_coefficient, other.transfer_coefficient))
            assert ends[0] <= both.transfer_coefficient <= ends[1]
            weights = [1 / each.standard_error**2 for each in (one, other)]
            mean = (weights[0] * one.transfer_coefficient + weights[1] * other.transfer_coefficient) / sum(weights)
            if abs(ends[1] - ends[0]) ** 2 < one.standard_error**2 + other.standard_error**2:
                assert both.transfer_coefficient == pytest.approx(mean, abs=1e-9)
                agreeing += 1
        assert agreeing
        assert sum(imported.uses[0].edges.values()) == 6
        before = engine.graph.to_json()
        engine.discover([imported])
        assert engine.graph.to_json() == before


def test_models_of_tasks_that_nobody_has_here_become_sources(from_a: Bundle, tmp_path: Path) -> None:
    """Nothing is known here of `loop` and `above_four`: their models come with the bundle, and advice uses them."""
    with environment_b(tmp_path / "b.db", "parity") as engine:
        assert engine.advise("parity", share=0.0).rows == ()
        use = import_bundle(from_a, engine, models=True)
        assert use.matched == {task: task for task in TASKS}
        assert set(engine.portfolio.ids) == set(TASKS)
        assert not engine.portfolio["loop"].has_data()
        assert {row.source for row in engine.advise("parity", share=0.0).rows} == {"loop", "above_four"}
        taken, held = engine.portfolio["loop"].model, from_a.model("loop")
        assert taken is not None
        assert all(torch.equal(a, b) for a, b in zip(taken.parameters(), held.parameters(), strict=True))


def test_a_task_of_the_same_name_but_another_one(from_a: Bundle, tmp_path: Path) -> None:
    """It is not taken for the bundle's, neither its edges nor its model."""
    with environment_b(tmp_path / "b.db", "parity") as engine:
        engine.register_task(TaskDescriptor(task_id="loop"))
        use = import_bundle(from_a, engine, models=True)
        assert use.matched == {"parity": "parity", "above_four": "above_four"}
        assert engine.portfolio["loop"].model is None
        assert engine.graph.edge("loop", "parity") is None


def renamed(portfolio: Portfolio, **names: str) -> Portfolio:
    """The same data under other names."""
    return Portfolio(copied(task, names.get(task.task_id, task.task_id)) for task in portfolio)


def edges_of(portfolio: Portfolio, **options: Any) -> tuple[Imported, list[TransferEdge]]:
    found = Imported(**{"stored": False, **options})
    graph = TransferGraph()
    for task in portfolio:
        graph.add_task(task.descriptor, task.content())
    return found, found.discover(portfolio, graph)


def test_tasks_are_known_by_their_data_whatever_they_are_called(from_a: Bundle) -> None:
    found, edges = edges_of(renamed(digits(), loop="Schleife"), bundles=[str(from_a.path)])
    assert found.uses[0].matched["loop"] == "Schleife"
    assert ("Schleife", "parity") in {(edge.source, edge.target) for edge in edges}
    assert len(edges) == 6


def test_a_name_alone_says_nothing_and_same_says_it(from_a: Bundle) -> None:
    """Turned pictures under the name `loop`: another task, until somebody says that it is the same."""
    other = Task(descriptor=attrs.evolve(digits("rotated")["rotated"].descriptor, task_id="loop", prerequisites=()),
                 train=digits("rotated")["rotated"].data())  # fmt: skip
    portfolio = Portfolio([digits("parity")["parity"], other])
    found, edges = edges_of(portfolio, bundles=[str(from_a.path)])
    assert (edges, found.uses[0].left_out) == ([], 6)
    found, edges = edges_of(portfolio, bundles=[str(from_a.path)], same={"loop": "loop"})
    assert len(edges) == 2
    for same, told in (
        ({"lop": "loop"}, "same: no task 'lop' in the bundles; did you mean 'loop'"),
        ({"loop": "lop"}, "same: no task 'lop' here; did you mean 'loop'"),
        ({"loop": "parity", "parity": "parity"}, "would both be 'parity'"),
    ):
        with pytest.raises(BundleError) as caught:
            edges_of(portfolio, bundles=[str(from_a.path)], same=same)
        assert told in str(caught.value)


def test_by_fingerprints_where_the_content_is_not_told(from_a: Bundle, tmp_path: Path) -> None:
    old = [attrs.evolve(task, content=None) for task in from_a.manifest.tasks]
    made = create_transfer_manifest(from_a.manifest.edges, tasks=old, created="yesterday", name="old")
    _, edges = edges_of(digits(), bundles=[str(write_bundle(made, tmp_path / "old.ctb").path)])
    assert len(edges) == 6
    nameless = [BundledTask(descriptor=task.descriptor) for task in old]
    bare = create_transfer_manifest(
        [attrs.evolve(e, when=None) for e in from_a.manifest.edges], tasks=nameless, created="2026-01-01T00:00:00"
    )
    path = str(write_bundle(bare, tmp_path / "bare.ctb").path)
    found, edges = edges_of(digits(), bundles=[path])
    assert (edges, found.uses[0].matched) == ([], {})
    _, edges = edges_of(digits(), bundles=[path], same={"loop": "loop", "parity": "parity"})
    assert [edge.when for edge in edges] == [None, None]  # a date without a zone is none


def test_two_tasks_of_the_same_data(from_a: Bundle) -> None:
    """Of several with these data the one of the same name is meant; of two strangers nobody knows which."""
    twins = Portfolio([*renamed(digits("loop", "parity")), *renamed(digits("loop"), loop="twin")])
    found, _ = edges_of(twins, bundles=[str(from_a.path)])
    assert found.uses[0].matched == {"loop": "loop", "parity": "parity"}
    strangers = Portfolio(
        [*renamed(digits("loop"), loop="one"), *renamed(digits("loop"), loop="two"), *digits("parity")]
    )
    found, _ = edges_of(strangers, bundles=[str(from_a.path)])
    assert found.uses[0].matched == {"parity": "parity"}


def test_bundles_by_name_index_and_all_that_are_installed(from_a: Bundle, tmp_path: Path) -> None:
    from crosstask_bundles import Index

    Index(folder=str(tmp_path)).send(from_a)
    for bundles in (["measured_digits"], [], [str(MeasuredDigits().file())]):
        found, edges = edges_of(digits(), bundles=bundles)
        assert {use.name for use in found.uses} >= {"measured digits"}
        assert len(edges) == 6
    found, edges = edges_of(digits(), bundles=[str(tmp_path / "index.json"), "measured_digits", "measured_digits"])
    assert [use.name for use in found.uses] == ["from A", "measured digits"]
    assert {len(edge.measurements) for edge in edges} == {2}
    with pytest.raises(BundleError, match="no such file"):
        edges_of(digits(), bundles=["missing.ctb"])


def test_measurements_that_disagree_are_shown(from_a: Bundle, tmp_path: Path) -> None:
    tasks = from_a.manifest.tasks
    files = []
    for number, value in enumerate((0.9, -0.9)):
        ends = {"source": "loop", "target": "parity", "low": value - 0.02, "high": value + 0.02}
        edge = TransferEdge(**ends, transfer_coefficient=value, evidence=Evidence.MEASURED, found_by="probe")
        made = create_transfer_manifest([edge], tasks=tasks, name=f"number {number}")
        files.append(str(write_bundle(made, tmp_path / f"{number}.ctb").path))
    found, edges = edges_of(digits(), bundles=files)
    (told,) = found.conflicts
    assert told.startswith("loop -> parity: ")
    assert len(edges) == 1


def test_knowledge_and_curricula_come_along(tmp_path: Path) -> None:
    knowledge = Distilled(MetaKnowledge(kind="prototypes", source_tasks=("loop",)), {"mean": torch.ones(3)})
    curriculum = Curriculum(target="parity", task_sequence=("loop", "parity"))
    made = create_transfer_manifest(meta_knowledge=[knowledge], curricula=[curriculum])
    bundle = write_bundle(made, tmp_path / "knowledge.ctb")
    with environment_b(tmp_path / "b.db") as engine:
        for _ in range(2):
            import_bundle(bundle, engine)
        (taken,) = engine.meta_knowledge
        assert torch.equal(taken.tensors["mean"], torch.ones(3))
        assert engine.curricula == [curriculum]
        again = export(engine)
        assert (again.curricula, again.knowledge[0].knowledge) == ((curriculum,), knowledge.knowledge)
        assert engine.store is not None
        keep(bundle, engine.store)
        assert [row.kind for row in engine.store.rows("knowledge")] == ["knowledge"]
    stored = export(str(tmp_path / "b.db"))
    assert (stored.curricula, stored.knowledge[0].knowledge) == ((curriculum,), knowledge.knowledge)


def test_what_the_store_holds_is_checked_again(from_a: Bundle, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "b.db"))
    store.put(KIND, "bundle-0", {"digest": "x", "manifest": {"schema": "crosstask/bundle/9"}})
    store.put(KIND, "bundle-1", ["no bundle"])
    assert keep(from_a, store)
    assert [known.digest for known in kept(store.entries(KIND))] == [from_a.digest]
    store.close()


def test_no_bundle_hides_another(from_a: Bundle, tmp_path: Path) -> None:
    """Of stores that are merged the bundles of both are there, and those beside one that was dropped as damaged."""
    measured = open_bundle(MeasuredDigits().file())
    one, two = (open_store(str(tmp_path / f"{name}.db")) for name in "ab")
    assert keep(from_a, one)
    assert keep(measured, two)
    done = upkeep.merge(one, two)
    assert (done.added, done.different) == (1, 0)
    both = [known.digest for known in kept(one.entries(KIND))]
    assert both == sorted([from_a.digest, measured.digest])
    assert [keep(each, one) for each in (from_a, measured)] == [False, False]
    for digest in both:
        one.delete(KIND, digest)
        assert [known.digest for known in kept(one.entries(KIND))] == [each for each in both if each != digest]
        assert keep({each.digest: each for each in (from_a, measured)}[digest], one)
    one.close()
    two.close()


def test_a_store_that_keeps_nothing_is_told_of(from_a: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = open_store(str(tmp_path / "c.db"))
    monkeypatch.setattr(other, "put", lambda *_, **__: None)
    with pytest.raises(BundleError, match="does not keep"):
        keep(from_a, other)
    other.close()


def test_the_graph_that_is_given_stays(from_a: Bundle) -> None:
    portfolio = digits()
    graph = TransferGraph(task.descriptor for task in portfolio)
    before = graph.to_json()
    from crosstask_bundles.merging import Known

    found = gather(graph, [Known(from_a.manifest, from_a.digest)], list(portfolio))
    assert graph.to_json() == before
    assert len(list(found.graph.edges())) == 6
    assert found.touched == {(e.source, e.target) for e in from_a.manifest.edges}
    with pytest.raises(GraphError):
        graph.task("low")
