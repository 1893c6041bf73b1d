"""The sections of the report: the graph, and the matrix of all pairs."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest

from crosstask.descriptors import TaskDescriptor
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask_discovery import Discovery, DiscoveryResult
from crosstask_discovery.report import matrix

NAMES = [f"task {n}" for n in range(8)]
RESULT = DiscoveryResult(tasks=8, repeats={"probe": 3})


def graph_of(names: list[str] = NAMES, seed: int = 7) -> TransferGraph:
    """All pairs estimated, most of them measured, with invented numbers."""
    rng = random.Random(seed)
    graph = TransferGraph(TaskDescriptor(task_id=name) for name in names)
    for source in names:
        for target in names:
            if source == target:
                continue
            ends, mean = {"source": source, "target": target}, max(-0.9, min(0.9, rng.gauss(0.1, 0.3)))
            graph.add(
                TransferEdge(**ends, transfer_coefficient=mean / 2, evidence=Evidence.ESTIMATED, found_by="skills")
            )
            if rng.random() < 0.7:
                width = rng.uniform(0.03, 0.2)
                found = {"evidence": Evidence.MEASURED, "found_by": "probe", "low": mean - width, "high": mean + width}
                graph.add(TransferEdge(**ends, transfer_coefficient=mean, **found))
    return graph


def traces(html: str) -> list[dict[str, Any]]:
    scripts = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    return [trace for script in scripts for trace in json.loads(script)["data"]]


def test_graph_and_matrix_are_drawn() -> None:
    sections = Discovery.sections(RESULT, graph_of())
    assert [section.title for section in sections] == ["Transfer graph", "Transfer matrix"]
    assert all(traces(section.html) for section in sections)
    assert sections == Discovery.sections(RESULT, graph_of()), "the same run gives the same report"


def test_matrix_marks_the_cells_whose_interval_excludes_zero() -> None:
    graph = graph_of()
    drawn = traces(matrix(RESULT, graph))
    [cells] = [t for t in drawn if t["type"] == "heatmap"]
    [signs] = [t for t in drawn if t.get("mode") == "text"]
    [guessed] = [t for t in drawn if t.get("mode") == "markers"]
    measured = [e for e in graph.edges() if e.evidence is Evidence.MEASURED]
    assert sum(z is not None for row in cells["z"] for z in row) == len(measured)
    assert len(guessed["x"]) == 56 - len(measured)
    certain = {(e.source, e.target) for e in measured if e.low > 0 or e.high < 0}
    assert {(NAMES[y], NAMES[x]) for x, y in zip(signs["x"], signs["y"], strict=True)} == certain
    assert f"{len(certain)} of {len(measured)} measured pairs" in matrix(RESULT, graph)


def test_what_cannot_be_tried_is_a_cross_with_its_reason_and_no_estimate() -> None:
    graph = graph_of()
    pairs = [(e.source, e.target) for e in graph.edges() if not e.measured][:2]
    for pair in pairs:
        graph.rule_out(*pair, "inputs <8> against (1, 28, 28)")
    html = matrix(RESULT, graph)
    guessed, crosses = (t for t in traces(html) if t.get("mode") == "markers")
    assert {(NAMES[y], NAMES[x]) for x, y in zip(crosses["x"], crosses["y"], strict=True)} == set(pairs)
    assert all("cannot be tried" in text and "inputs &lt;8&gt;" in text for text in crosses["text"])
    assert not set(pairs) & {(NAMES[y], NAMES[x]) for x, y in zip(guessed["x"], guessed["y"], strict=True)}
    assert html.count("inputs &lt;8&gt; against (1, 28, 28)</td>") == 2, "and as a table"
    graph_html = Discovery.sections(RESULT, graph)[0].html
    drawn = {tuple(e[1:]) for t in traces(graph_html) for e in t.get("meta", {}).get("edges", [])}
    assert not {(NAMES.index(a), NAMES.index(b)) for a, b in pairs} & drawn
    assert "2 pairs between which transfer cannot be tried are left out" in graph_html


def test_the_number_of_seeds_is_that_of_who_measured() -> None:
    def told(result: DiscoveryResult) -> list[str]:
        [cells] = [t for t in traces(matrix(result, graph_of())) if t["type"] == "heatmap"]
        return [text for row in cells["text"] for text in row if text]

    assert all(text.endswith("<br>3 seeds") for text in told(RESULT))
    assert not any("seeds" in text for text in told(DiscoveryResult(tasks=8, repeats={"another": 5})))


def test_without_edges_it_says_so() -> None:
    sections = Discovery.sections(DiscoveryResult(tasks=2), TransferGraph([TaskDescriptor(task_id="a")]))
    assert ["no graph to draw" in sections[0].html, "matrix is empty" in sections[1].html] == [True, True]


def test_names_of_tasks_are_never_markup() -> None:
    evil = '<script>alert("x")</script> %{x} </b>'
    html = "".join(section.html for section in Discovery.sections(RESULT, graph_of([evil, *NAMES[1:]])))
    assert "<script>alert" not in html
    assert "alert" in html


@pytest.mark.parametrize("light", ["crosstask_discovery", "crosstask_discovery.stage", "crosstask_discovery.records"])
def test_the_stage_imports_no_plotly(light: str) -> None:
    import subprocess
    import sys

    code = f"import sys, {light}; sys.exit('plotly' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
