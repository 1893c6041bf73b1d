"""What several tools come to together, and sequences of tools as paths in a graph."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import networkx as nx
import numpy as np

from crosstask.errors import DataError, nearest
from crosstask.records import Interval
from crosstask_routing.forecasts import bounded
from crosstask_routing.profiles import TaskProfile, ToolProfile
from crosstask_routing.records import PlannedTool

PATHS = 10_000
"""Sequences that are looked at, at most, for one that fits the budgets."""
LEAST = 1e-6
"""A success below this counts as this where logarithms are taken."""


def half(interval: Interval) -> float:
    """Half of an interval's width, to the farther side."""
    return max(interval.high - interval.mean, interval.mean - interval.low)


def together(steps: Sequence[PlannedTool], kind: str) -> tuple[Interval, Interval, Interval]:
    """Success, cost and latency of a plan. In a sequence all steps must succeed and all are paid; of a choice one must,
    and the later ones are paid where all before have failed: with q = 1 - p the cost is c₁ + q₁ c₂ + q₁ q₂ c₃ ….

    Half-widths are those of a first-order expansion in the steps' own, taken as independent.
    """
    success = np.array([step.success.mean for step in steps])
    wide = np.array([half(step.success) for step in steps])
    if kind == "sequence":
        rest = np.array([np.prod(np.delete(success, place)) for place in range(len(steps))])
        whole = bounded(float(success.prod()), float(np.linalg.norm(rest * wide)), "success")
    else:
        failing = 1 - success
        rest = np.array([np.prod(np.delete(failing, place)) for place in range(len(steps))])
        whole = bounded(1 - float(failing.prod()), float(np.linalg.norm(rest * wide)), "success")
    return whole, _paid(steps, kind, "cost", wide), _paid(steps, kind, "latency", wide)


def _paid(steps: Sequence[PlannedTool], kind: str, what: str, wide: np.ndarray) -> Interval:
    each = np.array([getattr(step, what).mean for step in steps])
    spread = np.array([half(getattr(step, what)) for step in steps])
    if kind == "sequence":
        return bounded(float(each.sum()), float(np.linalg.norm(spread)), what)
    failing = np.array([1 - step.success.mean for step in steps])
    reached = np.concatenate([[1.0], np.cumprod(failing)[:-1]])
    by_failing = np.zeros(len(steps))
    for place in range(len(steps)):
        others = failing.copy()
        others[place] = 1.0
        later = np.concatenate([[1.0], np.cumprod(others)[:-1]])
        by_failing[place] = float((later * each)[place + 1 :].sum())
    moved = float(np.linalg.norm(np.concatenate([reached * spread, by_failing * wide])))
    return bounded(float(reached @ each), moved, what)


def check_graph(graph: nx.DiGraph, tools: Mapping[str, ToolProfile]) -> nx.DiGraph:
    """A copy of a tool graph. DataError for one that is not directed, or with a tool that is not there."""
    if not isinstance(graph, nx.Graph) or not graph.is_directed():
        raise DataError(f"the tool graph must be a networkx.DiGraph, got a {type(graph).__name__}")
    for node in graph:
        if node not in tools:
            raise DataError(f"the tool graph has an unknown tool {node!r}{nearest(node, tools)}")
    return nx.DiGraph(graph)


def ends_of(
    graph: nx.DiGraph, task: TaskProfile, tools: Mapping[str, ToolProfile], usable: Sequence[str]
) -> tuple[nx.DiGraph, list[str], list[str]]:
    """(the graph of the usable tools, where a sequence for the task may begin, where it may end).

    By the types that the task names; else where nothing leads to, and where nothing leads from, in the whole graph.
    """
    begins = [n for n in graph if (tools[n].tool_type == task.begin if task.begin else not graph.in_degree(n))]
    ends = [n for n in graph if (tools[n].tool_type == task.end if task.end else not graph.out_degree(n))]
    for found, wanted, what in ((begins, task.begin, "begin"), (ends, task.end, "end")):
        if not found:
            named = f"a tool of type {wanted.name}" if wanted else "a tool without neighbours on that side"
            raise DataError(f"task {task.task_id!r}: no sequence can {what}: the tool graph has not {named}")
    part = graph.subgraph(usable).copy()
    return part, [n for n in begins if n in part], [n for n in ends if n in part]


def paths(
    graph: nx.DiGraph, begins: Sequence[str], ends: Sequence[str], lengths: Mapping[str, float]
) -> Iterator[tuple[str, ...]]:
    """Sequences of tools without repeats, the shortest first; a tool has a length, 0 or more (Yen 1971)."""
    start, goal = object(), object()
    work = nx.DiGraph()
    work.add_nodes_from((start, goal))
    for one, two in graph.edges:
        work.add_edge(one, two, length=lengths[two])
    for name in begins:
        work.add_edge(start, name, length=lengths[name])
    for name in ends:
        work.add_edge(name, goal, length=0.0)
    try:
        for path in nx.shortest_simple_paths(work, start, goal, weight="length"):
            yield tuple(path[1:-1])
    except nx.NetworkXNoPath:
        return


def length(success: float, price: float) -> float:
    """How far a step takes: -ln(success) and its weighted cost and latency, so that the shortest path is the sequence
    of the largest product of successes less what is paid.
    """
    return -math.log(min(1.0, max(LEAST, success))) + price
