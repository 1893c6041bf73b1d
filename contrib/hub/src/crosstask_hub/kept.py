"""Edges of a target in a store: one entry each, as long as its shortlist."""

from __future__ import annotations

from crosstask.graph import TransferGraph
from crosstask.points.store import Store

KIND = "hub_edges"


def keep_edges(store: Store, graph: TransferGraph, target: str, run_id: str = "") -> int:
    """Keep what a graph knows about one target, of all evidence; what was kept of it before is replaced. How many edges
    that are. GraphError for an unknown target.
    """
    sources = [edge.source for edge in graph.edges_into(target)]
    small = TransferGraph(graph.task(task) for task in [target, *sources])
    for source in sources:
        for edge in graph.evidence(source, target):
            small.add(edge)
    store.put(KIND, target, small.to_json(), run_id=run_id, replace=True)
    return len(sources)


def kept_edges(store: Store, target: str) -> TransferGraph | None:
    """The graph of a target and its sources, as it was kept; None if nothing was."""
    known = store.get(KIND, target)
    return None if known is None else TransferGraph.from_json(known.payload)
