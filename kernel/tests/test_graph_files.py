"""Large graphs: files are read piece by piece, or as a whole where they are laid out otherwise, with the same result;
nothing that is made of a graph holds it a second time.
"""

from __future__ import annotations

import gc
import itertools
import json
import re
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crosstask.descriptors import TaskDescriptor
from crosstask.engine import TransferEngine
from crosstask.errors import GraphError
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.learning.transferring import key_of
from crosstask.options import unstructure

SUFFIXES = [".json", ".graphml", ".gexf"]


def made(tasks: int, site: str = "") -> TransferGraph:
    """An edge for each pair but one, which is impossible; a task has a fingerprint."""
    graph = TransferGraph(TaskDescriptor(task_id=f"task {n}") for n in range(tasks))
    for number, (source, target) in enumerate(itertools.permutations(graph.task_ids, 2)):
        if number:
            value = number / tasks**2
            edge = TransferEdge(
                source=source, target=target, transfer_coefficient=value, evidence=Evidence.MEASURED, found_by="probe",
                low=value / 2, high=value * 2, estimates={"logme": value / 3}, best_strategy="fine_tune", site=site,
            )  # fmt: skip
            graph.add(edge)
        else:
            graph.rule_out(source, target, "too far")
    graph.add_task(graph.task("task 1"), "its data")
    return graph


def held(make: Callable[[], Any]) -> tuple[Any, int, int]:
    """What it makes, and bytes: those that are kept, and the most on the way."""
    gc.collect()
    tracemalloc.start()
    try:
        found = make()
        return found, *tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("tasks", [0, 1, 2, 5])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read_piece_by_piece(
    suffix: str, tasks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = made(tasks) if tasks > 1 else TransferGraph(TaskDescriptor(task_id="a") for _ in range(tasks))
    merged = graph.merge(made(tasks, site="elsewhere")).graph if tasks > 1 else graph  # with measurements
    monkeypatch.setattr(TransferGraph, "from_json", lambda _: pytest.fail("read as a whole"))
    for number, each in enumerate((graph, merged)):
        assert TransferGraph.load(each.export(tmp_path / f"{number}{suffix}")).to_json() == each.to_json()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_graph_is_not_in_memory_twice(suffix: str, tmp_path: Path) -> None:
    """Neither as it is read nor as it is written, and what is read takes no more than what was made."""
    TransferGraph.load(made(3).export(tmp_path / f"warm{suffix}"))

    graph, size, _ = held(lambda: made(50))
    path, _, writing = held(lambda: graph.export(tmp_path / f"graph{suffix}"))
    again, kept, reading = held(lambda: TransferGraph.load(path))
    assert again.to_json() == graph.to_json()
    assert kept < 1.05 * size
    assert reading < 1.05 * kept + 2**16
    assert writing < 0.1 * size + 2**16


def otherwise(text: str) -> Iterator[str]:
    """Files in which a line is missing, twice, or has lost or gained a comma; and such that are laid out otherwise."""
    lines = text.splitlines(keepends=True)
    for n, line in enumerate(lines):
        yield "".join(lines[:n])
        yield "".join(lines[:n] + lines[n + 1 :])
        yield "".join([*lines[: n + 1], *lines[n:]])
        other = line.replace(",\n", "\n") if line.endswith(",\n") else line.replace("\n", ",\n")
        yield "".join([*lines[:n], other, *lines[n + 1 :]])
        yield "".join([*lines[:n], line.lstrip(), *lines[n + 1 :]])
    data = json.loads(text)
    yield json.dumps(data)
    yield json.dumps(data, indent=1, sort_keys=True)  # edges before tasks
    yield json.dumps(data | {"remark": "of somebody else's"}, indent=1)
    yield text.rstrip("\n")
    yield text + "\n"
    yield text.replace("\n", "\r\n")
    yield text.replace(' "impossible": [', ' "impossible": 3,\n "odd": [')


def read_as_json(path: Path, text: str) -> bool:
    """Whether a file of this text is right; either way `load` says what `json` and `from_json` do."""
    path.write_text(text)
    try:
        expected = TransferGraph.from_json(json.loads(text)).to_json()
    except (ValueError, GraphError):
        with pytest.raises(GraphError, match=re.escape(str(path))):
            TransferGraph.load(path)
        return False
    assert TransferGraph.load(path).to_json() == expected, text
    return True


def test_a_file_is_read_as_json_is_however_its_lines_are(tmp_path: Path) -> None:
    path = made(3).export(tmp_path / "graph.json")
    assert sum([read_as_json(path, text) for text in list(otherwise(path.read_text()))]) > 10


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Each name that the object of a file has, with all the text of its value."""
    for block in text.removeprefix("{\n").removesuffix("\n}\n").split(',\n "'):
        name, _, value = block.lstrip(' "').partition('": ')
        yield name, value


def test_names_again_elsewhere_or_with_another_value_are_as_in_json(tmp_path: Path) -> None:
    """In JSON the last value of a name is the one that counts, wherever it stands and whatever it is."""
    graph = made(3)
    path = graph.export(tmp_path / "graph.json")
    was = list(blocks(path.read_text()))
    assert [name for name, _ in was] == ["schema", "tasks", "edges", "impossible", "fingerprints"]
    edge = text_of(attrs.evolve(next(graph.all_edges()), source="task 2", target="task 1", found_by="another"))
    values = ["{}", "[]", "[ ]", "[", "[,", "null", "3", '"other/9"', edge, f"[{edge}]", f"[\n  {edge}\n ]",
              '{"task 0": "its data"}', '{"source": "task 2", "target": "task 0", "reason": "x"}',
              '{"task_id": "task 9"}', *(value for _, value in was)]  # fmt: skip
    right = 0
    for place, (own, _) in enumerate(was):
        for value in values:
            for name in (own, rf"\u{ord(own[0]):04x}{own[1:]}"):
                for changed in (
                    [*was[:place], (name, value), *was[place + 1 :]],  # instead
                    [*was, (name, value)],  # again, at the end
                    [*was[:place], (name, value), *was[place:]],  # just before
                    [was[0], (name, value), *was[1:]],  # before all lists
                ):
                    right += read_as_json(path, file_of(changed))
    for order in itertools.permutations(was):
        right += read_as_json(path, file_of(order))
    assert right > 300


def text_of(edge: TransferEdge) -> str:
    return json.dumps(unstructure(edge))


def file_of(named: Iterable[tuple[str, str]]) -> str:
    """Laid out as graphs are."""
    return "{\n" + ",\n".join(f' "{name}": {value}' for name, value in named) + "\n}\n"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_lines_in_any_order_and_number_are_as_in_json(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    was = list(blocks(made(3).export(path).read_text()))
    items = [line.strip().removesuffix(",") for _, value in was for line in value.splitlines() if line.startswith("  ")]
    values = st.sampled_from([value for _, value in was] + items) | st.sampled_from(["[]", "[", "[,", "null", '""'])
    named = list(was)
    for _ in range(data.draw(st.integers(0, 2))):
        at, name = data.draw(st.integers(0, len(named) - 1)), data.draw(st.sampled_from([n for n, _ in was]))
        what = data.draw(st.sampled_from(["again", "retyped", "moved", "gone"]))
        if what == "again":
            named.insert(at + 1, (name, data.draw(values)))
        elif what == "retyped":
            named[at] = (named[at][0], data.draw(values))
        elif what == "moved":
            named.insert(data.draw(st.integers(0, len(named) - 1)), named.pop(at))
        elif len(named) > 1:
            del named[at]
    lines = file_of(named).splitlines(keepends=True)
    for _ in range(data.draw(st.integers(0, 2))):
        n, m = (data.draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        what = data.draw(st.sampled_from(["swapped", "again", "comma", "joined", "retyped"]))
        if what == "swapped":
            lines[n], lines[m] = lines[m], lines[n]
        elif what == "again":
            lines.insert(m, lines[n])
        elif what == "comma":
            lines[n] = lines[n].replace(",\n", "\n") if lines[n].endswith(",\n") else lines[n].replace("\n", ",\n")
        elif what == "joined":
            lines[n] = lines[n].replace("\n", "")
        else:
            lines[n] = f"  {data.draw(values)},\n"
    read_as_json(path, "".join(lines))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_edge_that_cannot_be_read_is_said_with_the_file_and_its_place(suffix: str, tmp_path: Path) -> None:
    path = made(2).export(tmp_path / f"graph{suffix}")
    text = path.read_text()
    found = re.search(r'\{"source": .*"measurements": \[\]\}', text)
    assert found is not None
    edge = json.loads(found[0])

    def load(**told: Any) -> TransferGraph:
        path.write_text(text.replace(found[0], json.dumps(edge | told)))
        return TransferGraph.load(path)

    assert [e.site for e in load(site="another").all_edges()] == ["another"]
    where = re.escape(f"{path}: edges[0]")
    with pytest.raises(GraphError, match=rf"^{where}: transfer_coefficient must be a number between .*, got 1000"):
        load(transfer_coefficient=10**400)
    nested = edge
    for _ in range(300):
        nested = edge | {"measurements": [nested]}
    with pytest.raises(GraphError, match=rf"^{where} is nested too deeply to be read$"):
        load(measurements=[nested])


@pytest.mark.parametrize("suffix", [".graphml", ".gexf"])
def test_edges_may_come_before_their_tasks(suffix: str, tmp_path: Path) -> None:
    graph = made(3)
    path = graph.export(tmp_path / f"graph{suffix}")
    lines = path.read_text().splitlines(keepends=True)
    if suffix == ".graphml":
        begin = next(n for n, line in enumerate(lines) if line.startswith("<node"))
        end = begin + 3
    else:
        begin, end = lines.index("<nodes>\n"), lines.index("</nodes>\n") + 1
    path.write_text("".join(lines[:begin] + lines[end:-2] + lines[begin:end] + lines[-2:]))
    assert TransferGraph.load(path).to_json() == graph.to_json()


def test_what_a_graph_is_known_by_is_read_off_source_by_source() -> None:
    """Stored results are found by this key: it stays what `key_of` makes of all edges at once."""
    names = ["a", "a'", "a'b", 'a"', "a\\", "a, ", "ä", "B", "a', 'target': 'b"]
    engine = TransferEngine()
    engine.graph = TransferGraph(TaskDescriptor(task_id=name) for name in names)
    for number, (source, target) in enumerate(itertools.permutations(names, 2)):
        for finder in ("one", "two")[: 1 + number % 2]:
            found = TransferEdge(source=source, target=target, transfer_coefficient=number / 100, found_by=finder)
            engine.graph.add(found)
    edges = [
        {name: value for name, value in unstructure(edge).items() if name not in ("when", "origin", "measurements")}
        for edge in engine.graph.all_edges()
    ]
    assert key_of("graph", sorted(edges, key=str)) in engine.fingerprint()
    assert key_of("graph", []) in TransferEngine().fingerprint()


def test_neither_its_key_nor_what_was_measured_holds_a_graph_twice() -> None:
    graph, size, _ = held(lambda: made(50))
    for edge in list(graph.all_edges()):
        if edge.target != "task 0":
            graph.networkx.remove_edge(edge.source, edge.target)
            graph.add(attrs.evolve(edge, evidence=Evidence.ESTIMATED))
    engine = TransferEngine()
    engine.graph = graph
    engine.fingerprint()
    _, _, most = held(engine.fingerprint)
    assert most < 0.2 * size
    measured, _, most = held(graph.of_measured)
    assert {edge.target for edge in measured.all_edges()} == {"task 0"}
    assert measured.task_ids == graph.task_ids
    assert (dict(measured.impossible), measured.fingerprint("task 1")) == (dict(graph.impossible), "its data")
    measured.add_task(TaskDescriptor(task_id="task 0"), "of the copy alone")
    assert graph.fingerprint("task 0") is None
    assert most < 0.1 * size
