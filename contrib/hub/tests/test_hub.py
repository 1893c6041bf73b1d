"""The index against brute force, its files, the discoverer and what it leaves alone."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from structlog.testing import capture_logs

from crosstask import Budget, Portfolio, Task, TaskDescriptor, TransferEdge, TransferEngine, TransferGraph
from crosstask.errors import CrosstaskError, DataError, GraphError, PluginError, StoreError
from crosstask.graph import Evidence
from crosstask.store import open_store
from crosstask.testing import conformance, small_portfolio
from crosstask_hub import Card, Hub, HubIndex, Weights, keep_edges, kept_edges

test_conformance = conformance(Hub, options={"count": 2})

SHAPES = [(1, 8, 8), (3, 16, 16)]
LICENCES = ["mit", "apache-2.0", "gpl-3.0"]


def described(name: str, row: Any, **more: Any) -> TaskDescriptor:
    return TaskDescriptor(task_id=name, embedding=tuple(map(float, row)), **more)


def some(count: int = 600, seed: int = 0) -> list[Card]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 12))
    return [
        Card(
            descriptor=described(f"m{n}", row, input_shape=SHAPES[n % 2], required_skills=(f"skill{n % 7}",)),
            statistics={"size": float(n % 11)} if n % 5 else {},
            quality=float(np.tanh(rng.normal())),
            licence=LICENCES[0 if n % 40 else 2],
            modality="image" if n % 3 else "text",
        )
        for n, row in enumerate(rows)
    ]


def unit(values: Any) -> Any:
    values = np.asarray(values, float)
    return values / max(np.linalg.norm(values), 1e-300)


CARDS = some()
INDEX = HubIndex.build(CARDS, seed=3)
TARGETS = [described(f"t{n}", row) for n, row in enumerate(np.random.default_rng(9).normal(size=(20, 12)))]


def test_score_is_what_its_definition_says() -> None:
    """Without words, which are the same for all here: w_e cos + w_s sign + w_q q."""
    cards = [attrs.evolve(c, descriptor=attrs.evolve(c.descriptor, required_skills=())) for c in CARDS[:50]]
    weights = Weights(embedding=0.7, words=0.2, statistics=0.3, quality=0.4)
    index = HubIndex.build(cards, weights=weights)
    sizes = [c.statistics["size"] for c in cards if c.statistics]
    target = TARGETS[0]
    for found in index.shortlist(target, 50, statistics={"size": 100.0}):
        card = index.card(found.source)
        cosine = float(unit(card.descriptor.embedding) @ unit(target.embedding))
        sign = np.sign(card.statistics["size"] - np.mean(sizes)) if card.statistics else 0.0
        wanted = 0.7 * cosine + 0.2 + 0.3 * sign + 0.4 * card.quality
        assert found.score == pytest.approx(wanted, abs=1e-5)


def test_shortlist_has_what_all_scores_say() -> None:
    shared = [
        len({f.source for f in INDEX.shortlist(t, 50)} & {f.source for f in INDEX.exact(t, 50)}) / 50 for t in TARGETS
    ]
    assert np.mean(shared) >= 0.95
    found = INDEX.exact(TARGETS[0], 50)
    assert [f.score for f in found] == sorted((f.score for f in found), reverse=True)


def test_a_source_is_not_its_own() -> None:
    own = CARDS[5].descriptor
    assert "m5" not in {f.source for f in INDEX.shortlist(own, 10)}
    assert len(INDEX.shortlist(own, 10_000)) == len(INDEX) - 1


@pytest.mark.parametrize(
    "filters",
    [
        {"licence": "gpl-3.0"},
        {"licence": ["mit", "gpl-3.0"], "modality": "text"},
        {"input_shape": (3, 16, 16)},
        {"input_shape": [(3, 16, 16), (1, 8, 8)], "task_type": "classification"},
    ],
)
def test_filters_keep_only_what_passes_and_miss_nothing(filters: dict[str, Any]) -> None:
    def passes(card: Card) -> bool:
        told = {**vars(card), "task_type": card.descriptor.task_type, "input_shape": card.descriptor.input_shape}
        return all(told[name] == wanted or told[name] in wanted for name, wanted in filters.items())

    allowed = {card.source for card in CARDS if passes(card)}
    found = [f.source for f in INDEX.shortlist(TARGETS[1], 30, **filters)]
    everything = [f.source for f in INDEX.exact(TARGETS[1], len(INDEX)) if f.source in allowed][:30]
    assert len(found) == min(30, len(allowed))
    assert set(found) <= allowed
    assert len(set(found) & set(everything)) >= 0.95 * len(found)
    assert not INDEX.shortlist(TARGETS[1], 3, licence="unheard of")


def test_keep_is_asked_until_there_are_enough() -> None:
    found = INDEX.shortlist(TARGETS[2], 20, keep=lambda name: int(name[1:]) % 50 == 0)
    assert {f.source for f in found} == {f"m{n}" for n in range(0, 600, 50)}
    assert INDEX.exact(TARGETS[2], 5, keep=lambda name: name == "m7")[0].source == "m7"


def test_files_hold_the_index_and_additions_go_on(tmp_path: Path) -> None:
    INDEX.save(tmp_path)
    again = HubIndex.open(tmp_path)
    assert again.sources == INDEX.sources
    assert again.card("m3") == CARDS[3]
    assert [again.shortlist(t, 20) for t in TARGETS] == [INDEX.shortlist(t, 20) for t in TARGETS]
    new = Card(descriptor=described("new", TARGETS[0].embedding), licence="gpl-3.0", quality=1.0)
    again.add([new])
    again.save(tmp_path)
    assert len(list(tmp_path.glob("*.hub"))) == 3
    assert HubIndex.open(tmp_path).shortlist(TARGETS[0], 1, licence="gpl-3.0")[0].source == "new"
    assert HubIndex.open(tmp_path).shortlist(TARGETS[0], 1)[0].source == "new"


def test_one_seed_is_one_index(tmp_path: Path) -> None:
    HubIndex.build(CARDS, seed=3).save(tmp_path / "a")
    HubIndex.build(CARDS, seed=3).save(tmp_path / "b")
    HubIndex.build(CARDS, seed=4).save(tmp_path / "c")
    graphs = [next((tmp_path / name).glob("graph-*")).read_bytes() for name in "abc"]
    assert graphs[0] == graphs[1] != graphs[2]


def test_one_by_one_is_the_same_sources_with_the_same_scores() -> None:
    index = HubIndex.build(CARDS[:100])
    for card in CARDS[100:160]:
        index.add([card])
    whole = HubIndex.build(CARDS[:100])
    whole.add(CARDS[100:160])
    for target in TARGETS[:5]:
        assert index.exact(target, 160) == whole.exact(target, 160)
        assert index.exact(target, 40, licence="gpl-3.0") == whole.exact(target, 40, licence="gpl-3.0")
        assert index.shortlist(target, 20) == index.exact(target, 20)


@pytest.mark.parametrize("part", ["graph", "vectors"])
def test_damage_is_said_and_mended(tmp_path: Path, part: str) -> None:
    INDEX.save(tmp_path)
    file = next(tmp_path.glob(f"{part}-*"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    with pytest.raises(StoreError, match=rf"{part}-.*damaged or missing; open it with rebuild=True"):
        HubIndex.open(tmp_path)
    mended = HubIndex.open(tmp_path, rebuild=True)
    assert mended.shortlist(TARGETS[0], 20) == INDEX.shortlist(TARGETS[0], 20)
    assert len(HubIndex.open(tmp_path)) == len(INDEX)


def test_what_cannot_be_mended_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no hub\.json"):
        HubIndex.open(tmp_path)
    INDEX.save(tmp_path)
    next(tmp_path.glob("cards-*")).unlink()
    with pytest.raises(StoreError, match=r"cards-.*build it again"):
        HubIndex.open(tmp_path, rebuild=True)
    header = json.loads((tmp_path / "hub.json").read_text())
    (tmp_path / "hub.json").write_text(json.dumps({**header, "schema": "crosstask/hub-index/9"}))
    with pytest.raises(StoreError, match="of version 'crosstask/hub-index/9'"):
        HubIndex.open(tmp_path)
    for text in ("{", "[" * 100_000):
        (tmp_path / "hub.json").write_text(text)
        with pytest.raises(StoreError, match=r"hub\.json cannot be read"):
            HubIndex.open(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: HubIndex.build([]), "at least one source"),
        (lambda: INDEX.add([CARDS[0]]), "already has a source 'm0'"),
        (lambda: INDEX.add(CARDS[0]), r"takes a list of cards: \[Card\(…\)\] for 'm0' alone"),
        (lambda: INDEX.add([TARGETS[0]]), "each source of a hub index must be a Card, got a TaskDescriptor"),
        (lambda: INDEX.shortlist("m0"), "the target of a shortlist must be a TaskDescriptor, got a str"),
        (lambda: INDEX.card("m00"), "no source 'm00' in the hub index"),
        (lambda: INDEX.shortlist(TARGETS[0], 0), "at least one place, got 0"),
        (lambda: INDEX.shortlist(TARGETS[0], licens="mit"), "unknown filter 'licens'.*'licence'"),
        (lambda: INDEX.shortlist(TARGETS[0], licence=None), "a value or a list of allowed ones, got None"),
        (lambda: INDEX.shortlist(TARGETS[0], statistics={"sise": 1.0}), "unknown statistic 'sise'.*'size'"),
        (lambda: INDEX.shortlist(TARGETS[0], statistics={"size": math.inf}), "a statistic is not finite"),
        (lambda: INDEX.shortlist(described("t", [1.0, 2.0])), "embeddings of 12 finite numbers, got 2"),
        (lambda: Card(descriptor=TARGETS[0], statistics={"a": math.nan}), "statistic 'a' is nan"),
        (lambda: Weights(embedding=0, words=0, statistics=0, quality=0), "at least one must count"),
    ],
)
def test_what_is_wrong_is_said(wrong: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        wrong()
    assert len(INDEX) == len(CARDS)


def test_adding_none_and_adding_a_bad_one_change_nothing() -> None:
    index = HubIndex.build(CARDS[:5])
    index.add([])
    with pytest.raises(DataError, match="bad"):
        index.add([CARDS[7], Card(descriptor=described("bad", [1.0]))])
    assert index.sources == [f"m{n}" for n in range(5)]
    assert len(index.shortlist(TARGETS[0], 50)) == 5


def test_without_the_library_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(PluginError, match="pip install crosstask-hub"):
        HubIndex.build(CARDS[:2])


# --- The discoverer


def portfolio(count: int = 60) -> Portfolio:
    return Portfolio([*(Task(descriptor=c.descriptor) for c in CARDS[:count]), Task(descriptor=TARGETS[0])])


def test_a_target_has_the_edges_of_its_shortlist_only(tmp_path: Path) -> None:
    INDEX.save(tmp_path)
    tasks = portfolio()
    graph = TransferGraph(task.descriptor for task in tasks)
    hub = Hub(index=str(tmp_path), count=7, licences=("mit",), modalities=("image",), same_type=True)
    edges = hub.discover(tasks.focused("t0"), graph)
    inside = {c.source for c in CARDS[:60] if c.licence == "mit" and c.modality == "image"}
    wanted = [f for f in INDEX.exact(TARGETS[0], len(INDEX)) if f.source in inside][:7]
    assert [e.source for e in edges] == [f.source for f in wanted]
    assert [e.estimates["hub"] for e in edges] == pytest.approx([f.score for f in wanted])
    assert all(e.evidence is Evidence.PREDICTED and e.target == "t0" for e in edges)
    coefficients = [e.transfer_coefficient for e in edges]
    assert coefficients == sorted(coefficients, reverse=True)
    with capture_logs() as logs:
        none = Hub(index=str(tmp_path), same_input=True, licences=("mit",))
        assert not none.discover(tasks.focused("t0"), graph)  # t0 says no shape
    (said,) = logs
    assert (said["event"], said["targets"], said["filters"]) == (
        "no source on the shortlist", ["t0"], ["same_input", "licences"]
    )  # fmt: skip
    with capture_logs() as logs:
        assert not none.discover(tasks.restricted([]).focused("t0"), graph)
    assert not logs, "nobody asked for a pair"


def test_statistics_of_a_target_in_the_index_count(tmp_path: Path) -> None:
    INDEX.save(tmp_path)
    tasks = portfolio()
    found = Hub(index=str(tmp_path), count=3).discover(tasks.focused("m1"), TransferGraph(t.descriptor for t in tasks))
    keep = set(tasks.ids)
    statistics = CARDS[1].statistics
    wanted = INDEX.exact(CARDS[1].descriptor, 3, statistics=statistics, keep=lambda name: name in keep)
    assert [e.source for e in found] == [f.source for f in wanted]


def test_restricted_pairs_are_kept_to() -> None:
    tasks = portfolio().restricted([("m1", "t0"), ("m2", "t0"), ("m3", "m4")])
    found = Hub(count=5).discover(tasks, TransferGraph(t.descriptor for t in tasks))
    assert {(e.source, e.target) for e in found} == {("m1", "t0"), ("m2", "t0"), ("m3", "m4")}


@attrs.define
class Looker:
    """Counts what it is shown, in place of an estimator."""

    fails: bool = False
    seen: list[tuple[int, int, int]] = attrs.field(factory=list)
    skipped: list[tuple[str, str, str]] = attrs.field(factory=list)

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        if self.fails:
            raise DataError(f"nothing for {portfolio.focus}")
        pairs = [(s.task_id, t.task_id) for s, t in portfolio.pairs()]
        known = sum(edge.measured for edge in graph.all_edges())
        self.seen.append((len(pairs), len(graph.task_ids), known))
        graph.rule_out(*pairs[-1], "cannot be tried")
        self.skipped = [(*pairs[-1], "cannot be tried")]
        told = {"evidence": Evidence.MEASURED, "found_by": "looker", "uncertainty": 0.1}
        return [TransferEdge(source=s, target=t, transfer_coefficient=0.3, **told) for s, t in pairs[:3]]


def test_what_comes_then_sees_the_shortlist_only(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = portfolio()
    graph = TransferGraph(t.descriptor for t in tasks)
    first = Hub(count=5).discover(tasks.focused("t0"), graph)
    near, far = first[0].source, next(n for n in tasks.ids if n not in {e.source for e in first} and n != "t0")
    told: dict[str, Any] = {"evidence": Evidence.MEASURED, "found_by": "probe"}
    graph.add(TransferEdge(source=near, target="t0", transfer_coefficient=0.5, **told))
    graph.add(TransferEdge(source=far, target="t0", transfer_coefficient=0.5, **told))
    looker = Looker()
    hub = Hub(count=5, then=("looker",))
    monkeypatch.setattr(Hub, "made_of", lambda *_: [looker])
    edges = hub.discover(tasks.focused("t0"), graph)
    assert looker.seen == [(5, 6, 1)]
    assert [e.measured for e in edges] == 5 * [False] + 3 * [True]
    assert hub.skipped == looker.skipped
    assert list(graph.impossible) == [hub.skipped[0][:2]]
    looker.fails = True
    with pytest.raises(DataError, match="nothing for t0"):
        hub.discover(tasks.focused("t0"), graph)


def test_an_engine_looks_at_one_target() -> None:
    with TransferEngine(discoverers=[], auto_discover=False) as engine:
        engine.register(portfolio())
        graph = engine.discover([Hub(count=6)], target="t0")
        assert [e.target for e in graph.all_edges()] == 6 * ["t0"]
        assert {t for _, t in graph.impossible} <= {"t0", *engine.portfolio.ids}
        with pytest.raises(CrosstaskError, match="no task 'nobody'"):
            engine.discover([Hub()], target="nobody")


def test_estimators_and_measurements_of_the_shortlist_are_those_of_all_pairs() -> None:
    """What `logme` says of a pair does not depend on who else is there, and `probe` measures what it is given."""
    with TransferEngine(discoverers=[], auto_discover=False, seeds=1, budget=Budget(steps=5)) as engine:
        engine.register(small_portfolio())
        name, held_back = engine.portfolio.ids[0], engine.portfolio.unseen[0].task_id
        graph = engine.discover([Hub(count=2, then=["logme", {"use": "active", "per_task": 1, "rounds": 1,
                                                              "estimators": ["logme"], "predictor": "logme"}])],
                                target=name)  # fmt: skip
        measured = graph.measured_edges()
        assert [e.target for e in measured] == [name]
        chosen = {e.source for e in graph.edges_into(name)}
        assert len(chosen) == 2
        assert measured[0].source in chosen
        told = {source: graph.estimates(source, name)["logme"] for source in chosen}
        with TransferEngine(discoverers=[], auto_discover=False, seeds=1, budget=Budget(steps=5)) as plain:
            plain.register(small_portfolio())
            whole = plain.discover(["logme"])
            assert told == pytest.approx({source: whole.estimates(source, name)["logme"] for source in chosen})
        assert {e.target for e in engine.discover([Hub(count=1)], target=held_back).edges()} == {name, held_back}


def test_edges_of_a_target_are_kept(tmp_path: Path) -> None:
    graph = TransferGraph([*(c.descriptor for c in CARDS[:9]), *TARGETS[:2]])
    for n in range(4):
        graph.add(TransferEdge(source=f"m{n}", target="t0", transfer_coefficient=n / 10, found_by="hub"))
    graph.add(TransferEdge(source="m8", target="t1", transfer_coefficient=0.1, found_by="hub"))
    store = open_store(f"sqlite:///{tmp_path}/store.db")
    try:
        assert keep_edges(store, graph, "t0") == 4
        assert keep_edges(store, graph, "t0", "again") == 4
        back = kept_edges(store, "t0")
        assert back is not None
        assert sorted(back.task_ids) == ["m0", "m1", "m2", "m3", "t0"]
        assert [e.transfer_coefficient for e in back.edges_into("t0")] == [0.3, 0.2, 0.1, 0.0]
        assert kept_edges(store, "t1") is None
        with pytest.raises(GraphError, match="no task 'nobody'"):
            keep_edges(store, graph, "nobody")
    finally:
        store.close()


def _at(name: str, embedding: Any, **known: Any) -> Card:
    return Card(descriptor=TaskDescriptor(task_id=name, embedding=tuple(map(float, embedding))), **known)


def test_many_sources_with_one_vector_hide_no_other(tmp_path: Path) -> None:
    rows = np.random.default_rng(3).normal(size=(80, 16))
    cards = [_at(f"same{n}", rows[0]) for n in range(1500)] + [_at(f"{n}", row) for n, row in enumerate(rows)]
    built = HubIndex.build(cards[:1000])
    built.add(cards[1000:])
    for index in (built, HubIndex.open(built.save(tmp_path / "hub"))):
        for n, row in enumerate(rows):
            target = _at("target", row).descriptor
            found, exact = index.shortlist(target, 10), index.exact(target, 10)
            assert [each.score for each in found] == pytest.approx([each.score for each in exact]), n
            assert n == 0 or found[0].source == str(n)
    opened = HubIndex.open(tmp_path / "hub")
    opened.add([_at("again", rows[5])])
    assert [found.source for found in opened.shortlist(_at("target", rows[5]).descriptor, 2)] == ["5", "again"]


@pytest.mark.parametrize("scale", [1e25, 1e-30])
def test_the_length_of_an_embedding_does_not_count(scale: float) -> None:
    index = HubIndex.build([_at("a", (scale, 0)), _at("b", (0, scale)), _at("c", (-scale, 0))])
    found = index.shortlist(_at("target", (1, 0)).descriptor, 3)
    assert [each.source for each in found] == ["a", "b", "c"]
    assert found[0].score - found[1].score == pytest.approx(1)


def test_a_statistic_that_all_sources_have_says_nothing() -> None:
    cards = [_at(f"{n}", (1, 0), statistics={"same": 1 / 3, "size": float(n)}) for n in range(10)]
    assert np.std([1 / 3] * 10) > 0  # rounding
    space = HubIndex.build(cards).space
    assert space.spread[0] == 1.0
    place = space.embedding + 32
    assert space.source(cards[9])[place : place + 2] == pytest.approx([0, space.weights.statistics**0.5])


def test_a_flipped_digit_of_the_header_is_damage(tmp_path: Path) -> None:
    INDEX.save(tmp_path)
    header = json.loads((tmp_path / "hub.json").read_text())
    header["space"]["weights"]["quality"] += 1
    (tmp_path / "hub.json").write_text(json.dumps(header))
    with pytest.raises(StoreError, match=r"hub\.json cannot be read \(it is not as it was written\); build it again"):
        HubIndex.open(tmp_path)


def test_what_cannot_be_written_is_said_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    INDEX.save(tmp_path)
    before = sorted(tmp_path.iterdir())

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(
        StoreError, match=r"cannot write hub index .*No space left.* bytes free, more than [\d,]+ needed"
    ):
        INDEX.save(tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    assert len(HubIndex.open(tmp_path)) == len(INDEX)
