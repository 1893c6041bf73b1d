"""Large graphs: files are read piece by piece, or as a whole where they are laid out otherwise, with the same result;
nothing that is made of a graph holds it a second time.
"""

from __future__ import annotations

import gc
import itertools
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

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


def test_a_file_is_read_as_json_is_however_its_lines_are(tmp_path: Path) -> None:
    path, right = made(3).export(tmp_path / "graph.json"), 0
    for text in list(otherwise(path.read_text())):
        path.write_text(text)
        try:
            expected = TransferGraph.from_json(json.loads(text)).to_json()
        except (ValueError, GraphError):
            with pytest.raises(GraphError):
                TransferGraph.load(path)
        else:
            right += 1
            assert TransferGraph.load(path).to_json() == expected
    assert right > 10


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
