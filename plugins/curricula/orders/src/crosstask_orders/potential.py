"""What a transfer graph says of the way from one task to another."""

from __future__ import annotations

import math

import networkx as nx

from crosstask.graph import TransferGraph
from crosstask.tasks import Portfolio


def potentials(graph: TransferGraph, target: str, candidates: list[str]) -> dict[str, float]:
    """Per candidate the coefficient of its edge to the target; without an edge, the best product of positive
    ones along a path; without a path, 0.
    """
    found = {t: edge.transfer_coefficient for t in candidates if (edge := graph.edge(t, target))}
    if len(found) < len(candidates) and target in graph.networkx:
        backwards = nx.DiGraph()
        backwards.add_nodes_from(graph.task_ids)
        for edge in graph.edges():
            if edge.transfer_coefficient > 0:
                backwards.add_edge(edge.target, edge.source, cost=-math.log(edge.transfer_coefficient))
        costs = nx.single_source_dijkstra_path_length(backwards, target, weight="cost")
        found |= {t: math.exp(-costs[t]) if t in costs else 0.0 for t in candidates if t not in found}
    return {t: found.get(t, 0.0) for t in candidates}


def promising(graph: TransferGraph, target: str, candidates: list[str], minimum: float) -> list[str]:
    """Candidates that the graph does not speak against: their potential is above `minimum`, or nothing leads
    from them.
    """
    potential = potentials(graph, target, candidates)
    return [t for t in candidates if potential[t] > minimum or _unknown(graph, t)]


def difficulty(portfolio: Portfolio, task_id: str) -> tuple[float, str]:
    """Sort key: complexity, then the id."""
    return portfolio[task_id].descriptor.complexity, task_id


def _unknown(graph: TransferGraph, task_id: str) -> bool:
    return task_id not in graph.networkx or graph.networkx.out_degree(task_id) == 0
