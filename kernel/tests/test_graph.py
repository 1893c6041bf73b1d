"""Edges, relations, directions, exports and hand-edited nonsense."""

from __future__ import annotations

import datetime
import functools
import gc
import itertools
import json
import math
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import attrs
import hypothesis.strategies as st
import networkx as nx
import pytest
from hypothesis import given, settings

from crosstask import (
    Evidence,
    GraphError,
    OptionError,
    RelationType,
    TaskDescriptor,
    TransferDirection,
    TransferEdge,
    TransferGraph,
)
from crosstask.graph import relation_type
from crosstask.graph_files import write_lines
from crosstask.options import structure, unstructure
from crosstask.testing.disk import full_disk


def graph_of(coefficients: dict[tuple[str, str], float], **fields: object) -> TransferGraph:
    names = sorted({name for pair in coefficients for name in pair})
    graph = TransferGraph(TaskDescriptor(task_id=name) for name in names)
    for (source, target), value in coefficients.items():
        graph.add(TransferEdge(source=source, target=target, transfer_coefficient=value, **fields))  # type: ignore[arg-type]
    return graph


@pytest.mark.parametrize(
    ("coefficient", "expected"),
    [
        (1.0, "identical"),
        (0.95, "highly_similar"),
        (0.7, "highly_similar"),
        (0.69, "moderately_similar"),
        (0.4, "moderately_similar"),
        (0.39, "weakly_similar"),
        (0.2, "weakly_similar"),
        (0.19, "independent"),
        (0.0, "independent"),
        (-0.01, "antagonistic"),
        (-1.0, "antagonistic"),
    ],
)
def test_relation_from_the_coefficient(coefficient: float, expected: str) -> None:
    assert relation_type(coefficient) is RelationType(expected)


@pytest.mark.parametrize(("low", "high", "hurts"), [(-0.91, 0.81, False), (-0.1, 0.0, False), (-0.1, -0.01, True)])
def test_antagonistic_is_what_hurts_and_not_what_an_interval_leaves_open(low: float, high: float, hurts: bool) -> None:
    edge = TransferEdge(source="a", target="b", transfer_coefficient=-0.05, evidence="measured", low=low, high=high)  # type: ignore[arg-type]
    expected = RelationType.ANTAGONISTIC if hurts else RelationType.INDEPENDENT
    assert (edge.relation, edge.hurts) == (expected, hurts)
    assert attrs.evolve(edge, relation=RelationType.ANTAGONISTIC).relation is expected
    assert structure({**unstructure(edge), "relation": "antagonistic"}, TransferEdge).relation is expected, "in a file"
    other = attrs.evolve(edge, transfer_coefficient=-0.06, high=edge.high + 0.01, origin="another run")
    one, two = (TransferGraph(TaskDescriptor(task_id=name) for name in "ab") for _ in range(2))
    one.add(edge)
    two.add(other)
    pooled = one.merge(two).graph
    for graph in (one, pooled):
        (found,) = graph.edges()
        assert (found.relation is RelationType.ANTAGONISTIC) == found.hurts
        assert graph.metrics()["antagonistic_share"] == len(graph.negative_transfer())
    (found,) = pooled.edges()
    assert found.measurements
    assert found.relation is (RelationType.ANTAGONISTIC if found.hurts else RelationType.INDEPENDENT)


def test_complementary_needs_other_types_or_skills_and_a_middling_coefficient() -> None:
    a = TaskDescriptor(task_id="a", required_skills=("shape",))
    b = TaskDescriptor(task_id="b", required_skills=("colour",))
    c = TaskDescriptor(task_id="c", required_skills=("shape", "colour"))
    d = TaskDescriptor(task_id="d", task_type="regression")
    assert relation_type(0.3, a, b) is RelationType.COMPLEMENTARY
    assert relation_type(0.3, a, d) is RelationType.COMPLEMENTARY
    assert relation_type(0.3, a, c) is RelationType.WEAKLY_SIMILAR
    assert relation_type(0.6, a, b) is RelationType.MODERATELY_SIMILAR
    assert relation_type(0.1, a, b) is RelationType.INDEPENDENT


@given(st.floats(-1, 1))
def test_edges_round_trip_through_json(coefficient: float) -> None:
    edge = TransferEdge(
        source="a", target="b", transfer_coefficient=coefficient, evidence=Evidence.MEASURED, low=-1, high=1
    )
    assert structure(json.loads(json.dumps(unstructure(edge))), TransferEdge) == edge


@pytest.mark.parametrize("value", [1.01, -1.5, float("nan"), float("inf"), "0.5", None])
def test_bad_coefficients(value: object) -> None:
    with pytest.raises(OptionError, match="transfer_coefficient"):
        TransferEdge(source="a", target="b", transfer_coefficient=value)  # type: ignore[arg-type]


def test_strongest_evidence_wins_then_the_newest() -> None:
    graph = graph_of({("a", "b"): 0.1}, evidence="estimated", found_by="x")
    graph.add(TransferEdge(source="a", target="b", transfer_coefficient=0.9, evidence=Evidence.MEASURED))
    graph.add(TransferEdge(source="a", target="b", transfer_coefficient=0.3, evidence=Evidence.PREDICTED))
    assert graph.coefficient("a", "b") == 0.9
    graph.add(
        TransferEdge(source="a", target="b", transfer_coefficient=0.8, evidence=Evidence.MEASURED, found_by="later")
    )
    assert graph.coefficient("a", "b") == 0.8
    graph.add(
        TransferEdge(source="a", target="b", transfer_coefficient=0.7, evidence=Evidence.MEASURED)
    )  # replaces 0.9
    assert graph.coefficient("a", "b") == 0.7
    assert len(list(graph.all_edges())) == 4
    assert len(list(graph.edges())) == 1


def test_of_estimates_and_predictions_the_newest_counts() -> None:
    """Discoverers run in the order of what they know: a prediction may rest on the estimates found before it."""
    graph = graph_of({("a", "b"): 0.1}, evidence="estimated", found_by="x")
    graph.add(
        TransferEdge(source="a", target="b", transfer_coefficient=0.4, evidence=Evidence.PREDICTED, found_by="gnn")
    )
    assert graph.coefficient("a", "b") == 0.4
    graph.add(TransferEdge(source="a", target="b", transfer_coefficient=0.3, evidence=Evidence.ESTIMATED, found_by="y"))
    assert graph.coefficient("a", "b") == 0.3


def test_several_pieces_of_evidence_for_a_pair() -> None:
    graph = graph_of({("a", "b"): 0.1}, evidence="estimated", found_by="logme", estimates={"logme": -1.5})
    assert graph.evidence("b", "a") == []
    assert graph.estimates("b", "a") == {}
    more = {"source": "a", "target": "b", "evidence": Evidence.ESTIMATED}
    graph.add(TransferEdge(transfer_coefficient=0.2, found_by="leep", estimates={"leep": -0.5}, **more))  # type: ignore[arg-type]
    graph.add(
        TransferEdge(transfer_coefficient=0.3, found_by="mean_z", estimates={"leep": -0.4, "mean_z": 1.0}, **more)  # type: ignore[arg-type]
    )
    graph.add(TransferEdge(source="a", target="b", transfer_coefficient=0.9, evidence=Evidence.MEASURED))
    assert [edge.found_by for edge in graph.evidence("a", "b")] == ["logme", "leep", "mean_z", ""]
    assert graph.estimates("a", "b") == {"logme": -1.5, "leep": -0.4, "mean_z": 1.0}
    again = TransferGraph.from_json(json.loads(json.dumps(graph.to_json())))
    assert again.estimates("a", "b") == graph.estimates("a", "b")


def test_edges_written_before_there_were_estimates_are_read() -> None:
    plain = unstructure(TransferEdge(source="a", target="b", transfer_coefficient=0.5))
    del plain["estimates"]
    assert structure(plain, TransferEdge).estimates == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_edge_with_what_is_no_number(value: float) -> None:
    with pytest.raises(GraphError, match="the estimate 'logme' is"):
        TransferEdge(source="a", target="b", transfer_coefficient=0.5, estimates={"logme": value})
    with pytest.raises(GraphError, match="the shared representation 'trunk' is"):
        TransferEdge(source="a", target="b", transfer_coefficient=0.5, shared_representations={"trunk": value})
    for name in ("low", "high", "accuracy_gain", "sample_efficiency_gain", "convergence_speed_gain"):
        with pytest.raises(GraphError, match=f"edge 'a' -> 'b': {name} is {value}; where it is unknown, say None"):
            TransferEdge(source="a", target="b", transfer_coefficient=0.5, **{name: value})
    with pytest.raises((GraphError, OptionError), match="uncertainty"):
        TransferEdge(source="a", target="b", transfer_coefficient=0.5, uncertainty=value)


def test_what_was_measured_is_told_from_what_was_predicted() -> None:
    graph = graph_of({("a", "b"): 0.4, ("b", "a"): 0.6, ("a", "c"): -0.2}, evidence="predicted", found_by="gnn")
    edge = graph.edge("a", "b")
    assert edge is not None
    assert (edge.source_task, edge.target_task, edge.measured) == ("a", "b", False)
    assert graph.measured_edges() == []
    assert graph.metrics()["mean_measured_coefficient"] is None
    tried = [
        TransferEdge(source="a", target=t, transfer_coefficient=v, evidence=Evidence.MEASURED)
        for t, v in (("b", 0.1), ("c", 0.3))
    ]
    for each in tried:
        graph.add(each)
    assert graph.measured_edges() == tried
    assert all(each.measured for each in tried)
    metrics = graph.metrics()
    assert (metrics["edges"], metrics["measured_edges"]) == (3, 2)
    assert metrics["mean_measured_coefficient"] == pytest.approx(0.2)
    assert metrics["mean_coefficient"] == pytest.approx((0.1 + 0.3 + 0.6) / 3)


def test_pairs_that_cannot_be() -> None:
    graph = graph_of({("a", "b"): 0.4})
    reason = "the model of 'b' takes inputs (3,), 'a' has (4,)"
    graph.rule_out("b", "a", "no idea")
    graph.rule_out("b", "a", reason)
    assert dict(graph.impossible) == {("b", "a"): reason}
    assert graph.metrics()["impossible_pairs"] == 1
    assert dict(graph.with_directions().impossible) == dict(graph.impossible)
    with pytest.raises(TypeError):
        graph.impossible["a", "b"] = "no"  # type: ignore[index]
    graph.rule_out("a", "b", "no data")
    assert graph.coefficient("a", "b") == 0.4, "what was guessed of it stays"
    graph.add(TransferEdge(source="a", target="b", transfer_coefficient=0.3, evidence=Evidence.MEASURED))
    graph.rule_out("a", "b", "no data")
    assert list(graph.impossible) == [("b", "a")], "what was measured can be"
    for _ in range(2):
        graph.rule_out("b", "a", None)
        assert not graph.impossible
    for source, target, why, message in (
        ("a", "bb", "x", "pair 'a' -> 'bb': no task 'bb'"),
        ("a", "a", "x", "a pair from task 'a' to itself"),
        ("b", "a", "", "say why"),
    ):
        with pytest.raises(GraphError, match=message):
            graph.rule_out(source, target, why)


def test_merging_two_graphs() -> None:
    one = graph_of({("a", "b"): 0.1, ("b", "a"): 0.2}, evidence="measured", found_by="probe")
    one.rule_out("a", "b", "kept out, as it was measured")
    other = graph_of({("a", "b"): 0.7, ("c", "a"): 0.3}, evidence="measured", found_by="probe")
    other.add_task(TaskDescriptor(task_id="a", domain="digits"))
    other.add(TransferEdge(source="b", target="a", transfer_coefficient=0.9, found_by="gnn"))
    one.rule_out("b", "a", "nothing: it was measured")
    other.rule_out("a", "c", "shapes")
    before = one.to_json(), other.to_json()
    both = one.merge(other).graph
    assert both.task_ids == ["a", "b", "c"]
    assert both.task("a").domain == "digits"
    assert {(e.source, e.target): e.transfer_coefficient for e in both.edges()} == {
        ("a", "b"): pytest.approx(0.4), ("b", "a"): 0.2, ("c", "a"): 0.3,
    }  # fmt: skip
    assert len(both.evidence("b", "a")) == 2
    assert dict(both.impossible) == {("a", "c"): "shapes"}
    assert (one.to_json(), other.to_json()) == before, "neither is changed"
    assert one.merge(TransferGraph()).graph.to_json() == one.to_json()


def test_directions_are_read_off_the_graph() -> None:
    graph = graph_of(
        {
            ("a", "b"): 0.5,
            ("a", "c"): 0.5,
            ("a", "d"): 0.5,
            ("b", "c"): 0.5,
            ("c", "b"): 0.4,
            ("d", "c"): 0.3,
            ("c", "a"): 0.1,
        }
    )
    assert graph.direction("a", "b") is TransferDirection.UNIVERSAL
    assert graph.direction("b", "c") is TransferDirection.BIDIRECTIONAL
    assert graph.direction("d", "c") is TransferDirection.MULTI_SOURCE
    assert graph.direction("c", "a") is TransferDirection.UNIDIRECTIONAL
    hub = graph_of({("a", "b"): 0.5, ("a", "c"): 0.5, ("a", "d"): 0.1})
    assert hub.direction("a", "b") is TransferDirection.MULTI_TARGET
    for each in (graph, hub):
        assert all(e.direction is each.direction(e.source, e.target) for e in each.with_directions().all_edges())


def test_exporting_takes_time_in_proportion_to_the_edges() -> None:
    """A complete graph of twice the tasks has four times the edges; looking at all neighbours of each took eight times
    as long.
    """
    seconds = []
    for count in (40, 80):
        names = [f"t{number:02}" for number in range(count)]
        graph = graph_of({pair: (n % 19 - 9) / 9 for n, pair in enumerate(itertools.permutations(names, 2))})
        best = math.inf
        for _ in range(3):
            started = time.process_time()
            graph.to_json()
            best = min(best, time.process_time() - started)
        seconds.append(best)
    assert seconds[1] / seconds[0] < 6


def test_questions_about_sources_and_harm() -> None:
    graph = graph_of({("a", "c"): 0.6, ("b", "c"): -0.2, ("d", "c"): 0.3, ("c", "a"): 0.2})
    graph.add(TransferEdge(source="d", target="a", transfer_coefficient=-0.1, low=-0.3, high=0.1))
    assert [e.source for e in graph.best_sources("c")] == ["a", "d"]
    assert [e.source for e in graph.best_sources("c", 1)] == ["a"]
    assert [(e.source, e.target) for e in graph.negative_transfer()] == [("b", "c")]  # d -> a may be noise
    metrics = graph.metrics()
    assert (metrics["tasks"], metrics["edges"]) == (4, 5)
    assert metrics["density"] == pytest.approx(5 / 12)
    assert metrics["mean_coefficient"] == pytest.approx((0.6 - 0.2 + 0.3 + 0.2 - 0.1) / 5)
    assert metrics["hubs"][0] == "a"
    assert metrics["antagonistic_share"] == pytest.approx(1 / 5)  # the same one
    assert {"a", "c"} <= graph.communities()[0]


def test_unknown_names_come_with_the_nearest() -> None:
    graph = graph_of({("alpha", "beta"): 0.5})
    with pytest.raises(GraphError, match=r"no task 'alhpa'.*did you mean 'alpha'"):
        graph.edges_into("alhpa")
    with pytest.raises(GraphError, match="no task 'gamma'"):
        graph.add(TransferEdge(source="alpha", target="gamma", transfer_coefficient=0))
    with pytest.raises(GraphError, match="to itself"):
        TransferEdge(source="alpha", target="alpha", transfer_coefficient=0)


@pytest.mark.parametrize("reading", ["edge", "evidence", "estimates", "coefficient", "direction"])
@pytest.mark.parametrize("pair", [("alhpa", "beta"), ("beta", "alhpa"), ("alpha", "alhpa")])
def test_nothing_is_said_of_a_task_that_is_not_there(reading: str, pair: tuple[str, str]) -> None:
    graph = graph_of({("alpha", "beta"): 0.5})
    with pytest.raises(GraphError, match=r"no task 'alhpa'.*did you mean 'alpha'"):
        getattr(graph, reading)(*pair)


@pytest.mark.parametrize("reading", ["edges_into", "edges_out_of", "best_sources", "task", "fingerprint"])
def test_nor_of_one_alone(reading: str) -> None:
    with pytest.raises(GraphError, match=r"no task 'alhpa'.*did you mean 'alpha'"):
        getattr(graph_of({("alpha", "beta"): 0.5}), reading)("alhpa")


def test_of_tasks_that_are_there_that_nothing_is_known_is_said() -> None:
    graph = graph_of({("alpha", "beta"): 0.5})
    assert graph.edge("beta", "alpha") is None
    assert (graph.evidence("beta", "alpha"), graph.estimates("beta", "alpha")) == ([], {})
    assert (graph.coefficient("beta", "alpha"), graph.coefficient("beta", "alpha", 0.25)) == (0.0, 0.25)
    assert ("alpha" in graph, "alhpa" in graph, 3 in graph) == (True, False, False)
    empty = TransferGraph()  # as components are called with where nobody has looked
    assert (empty.edge("x", "y"), empty.coefficient("x", "y", 0.5), empty.estimates("x", "y")) == (None, 0.5, {})
    for each in (graph, empty):
        with pytest.raises(GraphError, match="named by its id, a string, got a int"):
            each.coefficient("beta", 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".json", ".graphml", ".gexf"])
def test_exports_come_back(tmp_path: Path, suffix: str) -> None:
    graph = graph_of({("a", "b"): 0.5, ("b", "a"): -0.25, ("c", "a"): 1.0}, evidence="measured", low=-1.0, high=1.0)
    graph.add(TransferEdge(source="a", target="b", transfer_coefficient=0.2, shared_representations={"trunk.0": 0.9}))
    graph.add(TransferEdge(source="b", target="a", transfer_coefficient=0.2, found_by="x", estimates={"logme": -2.5}))
    graph.rule_out("a", "c", "it does not fit")
    graph.add_task(graph.task("b"), "its data")
    graph = graph.merge(graph_of({("c", "a"): 0.5}, evidence="measured")).graph
    assert len(graph.evidence("c", "a")[0].measurements) == 2
    path = graph.export(tmp_path / f"graph{suffix}")
    assert TransferGraph.load(path).fingerprint("b") == "its data"
    assert TransferGraph.load(path).to_json() == graph.to_json()
    empty = TransferGraph().export(tmp_path / f"empty{suffix}")
    assert TransferGraph.load(empty).task_ids == []


PAIR = "\ud83d\ude00"
"""Two surrogates: as characters of a string, not the character that they encode."""

texts = st.text(st.characters(), min_size=1, max_size=6).filter(lambda text: text.isascii() or _reads_back(text))
numbers = st.floats(allow_nan=True, allow_infinity=True)


def _reads_back(text: str) -> bool:
    return json.loads(json.dumps(text)) == text


@st.composite
def graphs(draw: st.DrawFn) -> TransferGraph:
    names = draw(st.lists(texts, min_size=1, max_size=5, unique=True))
    graph = TransferGraph()
    for name in names:
        task = TaskDescriptor(
            task_id=name, task_name=draw(texts), domain=draw(texts), required_skills=(draw(texts),),
            transfer_efficiency=draw(st.dictionaries(texts, numbers, max_size=2)),
            embedding=draw(st.none() | st.lists(numbers, max_size=3).map(tuple)),
        )  # fmt: skip
        graph.add_task(task.with_performance(draw(texts), draw(numbers)))
    for source, target in itertools.permutations(names, 2):
        for kind in draw(st.sets(st.sampled_from([*Evidence]))):
            edge = TransferEdge(
                source=source, target=target, transfer_coefficient=draw(st.floats(-1, 1)), evidence=kind,
                found_by=draw(texts), best_strategy=draw(st.none() | texts),
                accuracy_gain=draw(st.none() | st.floats(-1, 1)),
                shared_representations=draw(st.dictionaries(texts, st.floats(0, 1), max_size=2)),
            )  # fmt: skip
            graph.add(edge)
        if draw(st.booleans()):
            graph.rule_out(source, target, draw(texts))
    return graph


@pytest.mark.parametrize("suffix", [".json", ".graphml", ".gexf"])
@given(graph=graphs())
@settings(max_examples=25, deadline=None)
def test_whatever_is_written_is_read_back_as_it_was(suffix: str, graph: TransferGraph) -> None:
    with tempfile.TemporaryDirectory() as folder:
        again = TransferGraph.load(graph.export(Path(folder) / f"graph{suffix}"))
    assert again.to_json() == graph.to_json()  # NaN is not equal to itself, but what stands for it is
    assert again.task_ids == graph.task_ids
    assert list(again.all_edges()) == list(graph.with_directions().all_edges())
    assert dict(again.impossible) == dict(graph.impossible)


@pytest.mark.parametrize("kind", ["graphml", "gexf"])
@given(graph=graphs())
@settings(max_examples=15, deadline=None)
def test_xml_is_that_of_networkx_and_edges_are_those_of_unstructure(kind: str, graph: TransferGraph) -> None:
    """It is written piece by piece; networkx, which holds it all, wrote it before, and each reads the other's."""
    graph = graph.dated(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), "r")
    flat = nx.MultiDiGraph()
    flat.add_nodes_from(graph._xml_nodes())
    for number, (source, target, told) in enumerate(graph._xml_edges()):
        flat.add_edge(source, target, key=number, **told)
    read = nx.read_gexf if kind == "gexf" else functools.partial(nx.read_graphml, force_multigraph=True)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = graph.export(Path(folder) / f"ours.{kind}"), Path(folder) / f"theirs.{kind}"
        getattr(nx, f"write_{kind}")(flat, theirs)
        one, two = read(ours), read(theirs)
        again = TransferGraph.load(theirs)
    assert type(one) is type(two)
    assert list(one.nodes(data=True)) == list(two.nodes(data=True))
    assert list(one.edges(data=True)) == list(two.edges(data=True))
    assert list(one.edges) == list(two.edges)
    assert again.to_json() == graph.to_json()
    for edge, plain in zip(graph.with_directions().all_edges(), graph.to_json()["edges"], strict=True):
        assert plain == unstructure(edge)
        assert list(plain) == list(unstructure(edge))


XSI = "{http://www.w3.org/2001/XMLSchema-instance}schemaLocation"
GEXF: dict[str, tuple[set[str], set[str]]] = {
    "gexf": ({"version", XSI}, {"meta", "graph"}),
    "meta": ({"lastmodifieddate"}, {"creator", "keywords", "description"}),
    "creator": (set(), set()),
    "graph": ({"timeformat", "start", "end", "defaultedgetype", "idtype", "mode"}, {"attributes", "nodes", "edges"}),
    "attributes": ({"class", "mode", "start", "end"}, {"attribute"}),
    "attribute": ({"id", "title", "type"}, {"default", "options"}),
    "nodes": ({"count"}, {"node"}),
    "node": ({"id", "label", "start", "end", "pid"}, {"attvalues", "spells", "nodes", "edges", "parents"}),
    "edges": ({"count"}, {"edge"}),
    "edge": ({"id", "type", "label", "source", "target", "weight", "start", "end"}, {"attvalues", "spells"}),
    "attvalues": (set(), {"attvalue"}),
    "attvalue": ({"for", "value", "start", "end"}, set()),
}
"""gexf.xsd of 1.2draft: the attributes and the children that an element may have."""


def test_gexf_is_what_its_schema_allows(tmp_path: Path) -> None:
    graph = graph_of({("a", "b"): 0.5, ("b", "a"): -0.25}, evidence="measured", low=-1.0, best_strategy='"lp" & <ft>')
    graph.add_task(graph.task("b"), "its data")
    root = ElementTree.parse(graph.export(tmp_path / "g.gexf")).getroot()
    for element in root.iter():
        space, _, name = element.tag.removeprefix("{").partition("}")
        attributes, children = GEXF[name]
        assert space == "http://www.gexf.net/1.2draft"
        assert set(element.attrib) <= attributes, name
        assert {child.tag.rpartition("}")[2] for child in element} <= children, name
    declared = root.findall(".//{*}attribute")
    kinds = {each.attrib["id"]: each.attrib["type"] for each in declared}
    assert set(kinds.values()) == {"string", "double", "boolean", "long"}
    assert len(kinds) == len(declared)
    readers: dict[str, Callable[[str], object]] = {
        "double": float, "long": int, "boolean": {"true": True, "false": False}.__getitem__, "string": str,
    }  # fmt: skip
    told = [(each.attrib["for"], each.attrib["value"]) for each in root.findall(".//{*}attvalue")]
    assert [readers[kinds[key]](value) for key, value in told].count('"lp" & <ft>') == 2


def test_attributes_of_another_tool_are_left_alone(tmp_path: Path) -> None:
    """GraphML may say once for nodes and edges what an attribute is; Gephi numbers those of nodes and edges alike."""
    graph = graph_of({("a", "b"): 0.5})
    path = graph.export(tmp_path / "g.graphml")
    text = path.read_text()
    path.write_text(text.replace(' for="edge"', ' for="all"').replace('"a">', '"a"><data key="x">1</data>', 1))
    assert path.read_text() != text
    assert TransferGraph.load(path).to_json() == graph.to_json()

    path = graph.export(tmp_path / "g.gexf")
    text = path.read_text()
    for title in ("descriptor", "record"):
        number = re.search(rf'id="(\d+)" title="{title}"', text)
        assert number is not None
        text = text.replace(f'id="{number[1]}" title', 'id="same" title')
        text = text.replace(f'for="{number[1]}"', 'for="same"')
    path.write_text(text.replace("<attvalues>", '<attvalues><attvalue for="x" value="1"/>'))
    assert text.count('id="same"') == 2
    assert TransferGraph.load(path).to_json() == graph.to_json()


@pytest.mark.parametrize("suffix", [".graphml", ".gexf"])
def test_names_that_xml_cannot_hold_stay_apart(tmp_path: Path, suffix: str) -> None:
    """c13. XML has no such characters, and reads tabs and ends of lines as blanks."""
    names = [
        "a\x01b",
        r"a\u0001b",
        "a\x0cb",
        "a\ufffe",
        "\ud800",
        "a b",
        "a\tb",
        "a\nb",
        "a\r\nb",
        "\x7f",
        "\x85",
        " a",
        "a",
    ]
    graph = graph_of(dict.fromkeys(itertools.pairwise(names), 0.5), found_by="\x00", best_strategy="\x1b")
    again = TransferGraph.load(graph.export(tmp_path / f"graph{suffix}"))
    assert again.task_ids == graph.task_ids
    assert again.to_json() == graph.to_json()


@pytest.mark.parametrize("suffix", [".json", ".graphml", ".gexf"])
def test_text_that_no_file_can_hold(tmp_path: Path, suffix: str) -> None:
    for graph in (
        TransferGraph([TaskDescriptor(task_id=PAIR)]),
        TransferGraph([TaskDescriptor(task_id="a", transfer_efficiency={PAIR: 0.5})]),
        graph_of({("a", "b"): 0.5}, found_by=PAIR),
    ):
        with pytest.raises(GraphError, match=r"cannot be written: it holds two surrogates in a row"):
            graph.export(tmp_path / f"graph{suffix}")


@pytest.mark.parametrize("suffix", [".json", ".graphml", ".gexf"])
def test_numbers_that_are_not_finite(tmp_path: Path, suffix: str) -> None:
    task = TaskDescriptor(
        task_id="a", embedding=(math.nan, math.inf, -math.inf, 0.5), transfer_efficiency={"b": math.nan}
    )
    path = TransferGraph([task]).export(tmp_path / f"graph{suffix}")
    again = TransferGraph.load(path).task("a")
    assert again.embedding is not None
    assert math.isnan(again.embedding[0])
    assert again.embedding[1:] == (math.inf, -math.inf, 0.5)
    assert math.isnan(again.transfer_efficiency["b"])
    assert attrs.evolve(again, embedding=None, transfer_efficiency={}) == TaskDescriptor(task_id="a")


def test_a_graph_written_before_there_were_impossible_pairs_is_read() -> None:
    data = graph_of({("a", "b"): 0.5}).to_json()
    del data["impossible"]
    assert TransferGraph.from_json(data).coefficient("a", "b") == 0.5


def test_a_wrong_suffix(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="suffix"):
        graph_of({("a", "b"): 0.5}).export(tmp_path / "graph.csv")
    with pytest.raises(GraphError, match="suffix"):
        TransferGraph.load(tmp_path / "graph.csv")


def _edited(change: str) -> object:
    data = graph_of({("a", "b"): 0.5}).to_json()
    edge = data["edges"][0]
    match change:
        case "schema":
            data["schema"] = "other/2"
        case "coefficient":
            edge["transfer_coefficient"] = 7
        case "type":
            edge["transfer_coefficient"] = "much"
        case "ghost":
            edge["target"] = "ghost"
        case "field":
            edge["transfer_coeficient"] = 1
        case "relation":
            edge["relation"] = "similar"
        case "edges":
            data["edges"] = {"a": 1}
        case "task":
            del data["tasks"][0]["task_id"]
        case "twice":
            data["tasks"].append(data["tasks"][0])
        case "list":
            return [1, 2]
        case "ruled out":
            data["impossible"] = [{"source": "a", "target": "ghost", "reason": "x"}]
        case "number":
            data["tasks"][0]["embedding"] = [{"$number": "many"}]
        case "order":
            edge["low"], edge["high"] = 1.0, -1.0
    return data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("schema", "schema is 'other/2'"),
        ("list", "schema is 'list'"),
        ("coefficient", r"edges\[0\]: transfer_coefficient must be >= -1 and <= 1, got 7"),
        ("type", r"edges\[0\]: transfer_coefficient must be a number, got 'much'"),
        ("ghost", r"edges\[0\]: edge 'a' -> 'ghost': no task 'ghost'"),
        ("field", r"edges\[0\]: unknown option 'transfer_coeficient'; did you mean 'transfer_coefficient'"),
        ("relation", r"edges\[0\]: relation cannot be 'similar'.*did you mean"),
        ("edges", "'edges' must be a list"),
        ("task", r"tasks\[0\]: missing option 'task_id'"),
        ("twice", r"tasks\[2\]: task 'a' appears twice"),
        ("ruled out", r"impossible\[0\]: pair 'a' -> 'ghost': no task 'ghost'"),
        ("number", r"tasks\[0\]: embedding\[0\] must be a number"),
        ("order", r"edges\[0\]: edge 'a' -> 'b': low 1.0 is above high -1.0"),
    ],
)
def test_a_graph_edited_into_nonsense(tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(_edited(change)))
    with pytest.raises(GraphError, match=message) as caught:
        TransferGraph.load(path)
    assert str(path) in str(caught.value)


def test_files_that_are_no_graph(tmp_path: Path) -> None:
    for name, text in (("a.json", "{"), ("b.graphml", "<xml"), ("c.gexf", "")):
        (tmp_path / name).write_text(text)
        with pytest.raises(GraphError, match="not a transfer graph"):
            TransferGraph.load(tmp_path / name)
    with pytest.raises(GraphError, match="cannot be read"):
        TransferGraph.load(tmp_path / "missing.json")


@pytest.mark.parametrize("enabled", [True, False])
def test_reading_leaves_the_garbage_collector_as_it_was(tmp_path: Path, enabled: bool) -> None:
    path = graph_of({("a", "b"): 0.5}).export(tmp_path / "g.json")
    (tmp_path / "wrong.json").write_text("{")
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        TransferGraph.load(path)
        assert gc.isenabled() is enabled
        with pytest.raises(GraphError, match="not a transfer graph"):
            TransferGraph.load(tmp_path / "wrong.json")
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_two_write_one_file_at_once_and_each_is_whole(tmp_path: Path) -> None:
    """Who comes last has the last word, and nobody's lines are among another's."""
    path = tmp_path / "g.json"

    def lines() -> Iterator[str]:
        yield "one\n"
        write_lines(path, ["other\n"])
        assert path.read_text() == "other\n"
        yield "more\n"

    write_lines(path, lines())
    assert path.read_text() == "one\nmore\n"
    assert [file.name for file in tmp_path.iterdir()] == ["g.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit for files")
@pytest.mark.parametrize("suffix", [".json", ".graphml", ".gexf"])
def test_on_a_full_disk_the_graph_that_was_there_stays(suffix: str, tmp_path: Path) -> None:
    graph, path = TransferGraph(TaskDescriptor(task_id=f"task {n}") for n in range(200)), tmp_path / f"graph{suffix}"
    path.write_text("as it was", "utf-8")
    told = rf"cannot write graph .*graph\{suffix}: File too large \([\d,]+ bytes free, more than [\d,]+ needed\)"
    with full_disk(4096), pytest.raises(GraphError, match=told):
        graph.export(path)
    assert path.read_text("utf-8") == "as it was"
    assert list(tmp_path.iterdir()) == [path]
