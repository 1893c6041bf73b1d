"""Discoverers made of discoverers."""

from __future__ import annotations

import math
from collections.abc import Iterable

from crosstask.errors import CrosstaskError, DataError
from crosstask.graph import Evidence, TransferEdge, TransferGraph, relation_type
from crosstask.options import component, option, state
from crosstask.parts import Part, part
from crosstask.points.discovery import Discoverer
from crosstask.tasks import Portfolio
from crosstask_composition.checks import fitting, need_parts

_WEAKEST_FIRST = list(Evidence)


@component
class Chain(Discoverer):
    """Discoverers in order, as one: each sees in the graph what the ones before it found.

    A run does the same with the discoverers of its recipe; this is for where one is asked for, such as inside `blend`.
    """

    parts: tuple[Part, ...] = part("discovery", required=True, help="the discoverers, in order")

    def __attrs_post_init__(self) -> None:
        need_parts(self, self.parts)

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        seen = with_edges(graph, graph.all_edges())
        found = []
        for discoverer in self.made_of("parts"):
            for edge in discoverer.discover(portfolio, seen):
                seen.add(edge)
                found.append(edge)
        return found


@component
class Blend(Discoverer):
    """The weighted mean of what several discoverers say of each pair.

    Each works alone, on the graph as it was. A pair's coefficient is the mean over the parts that say something of it;
    its uncertainty is that of a weighted sum of independent errors, and missing if one of the parts gives none; its
    evidence is the weakest of theirs.
    """

    parts: tuple[Part, ...] = part("discovery", required=True, help="the discoverers")
    weights: tuple[float, ...] = option((), ge=0, help="one per part (all equal if empty)")
    at_least: int = option(1, ge=1, help="leave out pairs of which fewer parts say something")

    def __attrs_post_init__(self) -> None:
        need_parts(self, self.parts)
        fitting(self, "weights", self.weights, self.parts)

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        said: dict[tuple[str, str], list[tuple[float, TransferEdge]]] = {}
        weights = self.weights or (1.0,) * len(self.parts)
        for weight, discoverer in zip(weights, self.made_of("parts"), strict=True):
            for edge in with_edges(graph, discoverer.discover(portfolio, graph)).edges():
                if weight > 0:
                    said.setdefault((edge.source, edge.target), []).append((weight, edge))
        return [mean_edge(votes, graph) for votes in said.values() if len(votes) >= self.at_least]


@component
class Fallback(Discoverer):
    """The first discoverer; each further one only for the pairs of which the ones before it say nothing.

    A discoverer that refuses (a DataError for missing data, say) is passed over; DataError if all of them do.
    """

    parts: tuple[Part, ...] = part("discovery", required=True, help="the discoverers, best first")
    skipped: list[str] = state(factory=list)

    def __attrs_post_init__(self) -> None:
        need_parts(self, self.parts)

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        found: list[TransferEdge] = []
        missing = {(source.task_id, target.task_id) for source, target in portfolio.pairs()}
        refused = []
        for discoverer in self.made_of("parts"):
            if not missing:
                break
            try:
                edges = [e for e in discoverer.discover(portfolio, graph) if (e.source, e.target) in missing]
            except CrosstaskError as error:
                refused.append(f"{discoverer.origin}: {error}")
                continue
            found += edges
            missing -= {(e.source, e.target) for e in edges}
        self.skipped = refused
        if len(refused) == len(self.parts):
            raise DataError("every discoverer refused: " + "; ".join(refused))
        return found


def with_edges(graph: TransferGraph, edges: Iterable[TransferEdge]) -> TransferGraph:
    """A graph of the same tasks with these edges."""
    made = TransferGraph(map(graph.task, graph.task_ids))
    for edge in edges:
        made.add(edge)
    return made


def mean_edge(votes: list[tuple[float, TransferEdge]], graph: TransferGraph) -> TransferEdge:
    """The weighted mean of edges of one pair."""
    total = sum(weight for weight, _ in votes)
    coefficient = sum(weight * edge.transfer_coefficient for weight, edge in votes) / total
    errors = [(weight, edge.uncertainty) for weight, edge in votes if edge.uncertainty is not None]
    uncertainty = math.hypot(*(w * u for w, u in errors)) / total if len(errors) == len(votes) else None
    source, target = votes[0][1].source, votes[0][1].target
    return TransferEdge(
        source=source,
        target=target,
        transfer_coefficient=coefficient,
        evidence=min((edge.evidence for _, edge in votes), key=_WEAKEST_FIRST.index),
        found_by="blend",
        relation=relation_type(coefficient, graph.task(source), graph.task(target)),
        uncertainty=uncertainty,
        low=None if uncertainty is None else max(-1.0, coefficient - 1.96 * uncertainty),
        high=None if uncertainty is None else min(1.0, coefficient + 1.96 * uncertainty),
    )
