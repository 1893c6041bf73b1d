"""The transfer graph: a networkx MultiDiGraph behind a typed face."""

from __future__ import annotations

import contextlib
import datetime
import enum
import functools
import gc
import hashlib
import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs
import networkx as nx

from crosstask.descriptors import TaskDescriptor
from crosstask.drawing import Drawing, network
from crosstask.errors import CrosstaskError, GraphError, nearest, of_kind
from crosstask.graph_files import (
    escaped,
    gexf_lines,
    graphml_lines,
    json_lines,
    json_pieces,
    numbers,
    plain,
    read_xml,
    text,
    write_lines,
)
from crosstask.options import option, record, structure
from crosstask.pooling import NORMAL95, Drift, Pooled, Repeats, estimate_drift, false_discoveries, pool
from crosstask.showing import frame, table

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

SCHEMA = "crosstask/transfer-graph/1"


class RelationType(enum.Enum):
    """How two tasks relate, from the transfer coefficient and the descriptors."""

    IDENTICAL = "identical"
    HIGHLY_SIMILAR = "highly_similar"
    MODERATELY_SIMILAR = "moderately_similar"
    WEAKLY_SIMILAR = "weakly_similar"
    COMPLEMENTARY = "complementary"
    INDEPENDENT = "independent"
    ANTAGONISTIC = "antagonistic"


class TransferDirection(enum.Enum):
    """Which way transfer goes. The last three are properties of the whole graph (see `TransferGraph.direction`)."""

    UNIDIRECTIONAL = "unidirectional"
    BIDIRECTIONAL = "bidirectional"
    MULTI_SOURCE = "multi_source"
    MULTI_TARGET = "multi_target"
    UNIVERSAL = "universal"


class Evidence(enum.Enum):
    """How an edge is known: from what was learned of other pairs, from this pair's data and models, or tried out."""

    PREDICTED = "predicted"
    ESTIMATED = "estimated"
    MEASURED = "measured"


LEAST_ERROR = 0.005
"""No measurement is taken for surer than that."""

HELPS = 0.2
"""A coefficient from which a task is said to help another (below it they are independent)."""


def relation_type(
    coefficient: float, source: TaskDescriptor | None = None, target: TaskDescriptor | None = None
) -> RelationType:
    """Relation of a pair. From 0.2 to 0.5 tasks of different types, or without a common skill, are complementary.
    An edge says with its interval whether it is antagonistic (see `TransferEdge`).
    """
    if coefficient < 0:
        return RelationType.ANTAGONISTIC
    if coefficient < HELPS:
        return RelationType.INDEPENDENT
    if coefficient <= 0.5 and source is not None and target is not None:
        skills, others = set(source.required_skills), set(target.required_skills)
        if source.task_type != target.task_type or (skills and others and not skills & others):
            return RelationType.COMPLEMENTARY
    if coefficient < 0.4:
        return RelationType.WEAKLY_SIMILAR
    if coefficient < 0.7:
        return RelationType.MODERATELY_SIMILAR
    return RelationType.IDENTICAL if coefficient >= 1 - 1e-9 else RelationType.HIGHLY_SIMILAR


@record
class TransferEdge:
    """How much `source` helps to learn `target`, and how that is known.

    `transfer_coefficient` is in [-1, 1], `uncertainty` its standard error, `low` and `high` its 95 % interval.
    `estimates` holds the raw values of transferability estimators by name (`logme`, `leep`, …): evidence for those that
    predict, in units of their own, and comparable only among the sources of one target. `shared_representations` holds
    how alike layers of the two models are, 0 to 1, the most alike first: by the layer's name where both call it the
    same, else by `layer of the source -> layer of the target`. All numbers are finite; what is unknown is None.
    `accuracy_gain_low` and `accuracy_gain_high` are the 95 % interval of the gain in the metric; with `speed_capped`
    the speed gain is a lower bound (see `TransferResult.speed_capped`). `when` and `origin` say when and in which run
    it was found, where somebody has said so (`TransferGraph.dated`); `site` at which of several places, each with data
    of its own, it was measured. `score` is what the target came to with the transfer where that was measured, in its
    metric, `score_low` and `score_high` its 95 % interval; measurements of several budgets have no score in common. An
    edge that `TransferGraph.merge` has pooled holds what it was pooled from in `measurements`, of the same pair. Its
    `relation` is antagonistic only where it `hurts`: of a negative coefficient whose interval holds zero, independent.
    """

    source: str
    target: str
    transfer_coefficient: float = option(ge=-1, le=1, help="share of the possible gain; negative hurts")
    evidence: Evidence = Evidence.PREDICTED
    found_by: str = ""
    relation: RelationType = attrs.field(
        default=attrs.Factory(lambda self: relation_type(self.transfer_coefficient), takes_self=True)
    )
    direction: TransferDirection = TransferDirection.UNIDIRECTIONAL
    uncertainty: float | None = option(None, ge=0, help="standard error of the coefficient")
    low: float | None = None
    high: float | None = None
    accuracy_gain: float | None = None
    accuracy_gain_low: float | None = None
    accuracy_gain_high: float | None = None
    score: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    sample_efficiency_gain: float | None = None
    convergence_speed_gain: float | None = None
    speed_capped: bool = False
    shared_representations: dict[str, float] = attrs.field(factory=dict)
    best_strategy: str | None = None
    estimates: dict[str, float] = attrs.field(factory=dict)
    when: datetime.datetime | None = None
    origin: str = ""
    site: str = ""
    measurements: tuple[TransferEdge, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.source == self.target:
            raise GraphError(f"an edge from task {self.source!r} to itself")
        for kind, values in (("estimate", self.estimates), ("shared representation", self.shared_representations)):
            for name, value in values.items():
                if not math.isfinite(value):
                    raise GraphError(f"edge {self.source!r} -> {self.target!r}: the {kind} {name!r} is {value}")
        for name in (*_NUMBERS, "score", "score_low", "score_high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                told = f"{name} is {number}; where it is unknown, say None"
                raise GraphError(f"edge {self.source!r} -> {self.target!r}: {told}")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise GraphError(f"edge {self.source!r} -> {self.target!r}: low {self.low} is above high {self.high}")
        if self.relation is RelationType.ANTAGONISTIC and self.transfer_coefficient < 0 and not self.hurts:
            object.__setattr__(self, "relation", RelationType.INDEPENDENT)  # whoever said it, and when, also in a file
        if self.when is not None and self.when.tzinfo is None:
            raise GraphError(f"edge {self.source!r} -> {self.target!r}: when {self.when} is without a time zone")
        for each in self.measurements:
            if (each.source, each.target) != (self.source, self.target) or each.measurements:
                told = f"edge {self.source!r} -> {self.target!r}: a measurement is"
                raise GraphError(f"{told} of {each.source!r} -> {each.target!r}, or pooled itself")

    @property
    def identity(self) -> str:
        """What this piece of evidence is known by: two edges of a pair with it are one measurement, taken over twice.
        Made of all its numbers and its site, not of its date, its run or its finder: a run repeated with its seed finds
        the same. Two sites have other data: where both find that nothing is gained, these are two measurements.
        """
        numbers = [getattr(self, name) for name in _NUMBERS]
        told = [self.evidence.value, self.transfer_coefficient, self.speed_capped, *numbers]
        told += [self.site] if self.site else []
        return hashlib.sha256(repr(told).encode()).hexdigest()[:24]

    @property
    def standard_error(self) -> float:
        """Of the coefficient, as measurements are weighed: the wider half of the interval over 1.96 (the interval of
        three seeds is Student's, and may be cut at an end of [-1, 1]), else `uncertainty`, else 1: nothing is known.
        At least 0.005, since seeds may agree by chance.
        """
        sides = [abs(end - self.transfer_coefficient) for end in (self.low, self.high) if end is not None]
        known = max(sides) / NORMAL95 if sides else 1.0 if self.uncertainty is None else self.uncertainty
        return max(known, LEAST_ERROR)

    @property
    def source_task(self) -> str:
        """The id of the task that helps: `source`."""
        return self.source

    @property
    def target_task(self) -> str:
        """The id of the task that is helped: `target`."""
        return self.target

    @property
    def measured(self) -> bool:
        """Whether transfer was tried out; else the coefficient is an estimate or a prediction."""
        return self.evidence is Evidence.MEASURED

    @property
    def hurts(self) -> bool:
        """Negative transfer: the interval, or without one the coefficient, lies below zero."""
        return (self.high if self.high is not None else self.transfer_coefficient) < 0

    @property
    def helps(self) -> bool:
        """Beyond doubt: the interval, or without one the coefficient, lies above zero."""
        return (self.low if self.low is not None else self.transfer_coefficient) > 0


_NUMBERS = (
    "uncertainty", "low", "high", "accuracy_gain", "accuracy_gain_low", "accuracy_gain_high", "sample_efficiency_gain",
    "convergence_speed_gain",
)  # fmt: skip


class TransferGraph:
    """Tasks and the transfer edges between them. Several edges may join a pair: one per kind of evidence and finder.

    `edge`, `coefficient` and everything below read the strongest: one that was measured, else the newest, because each
    discoverer builds on what the ones before it found. `TransferEdge.measured` tells what was tried out from what was
    only estimated or predicted. Pairs between which transfer cannot be tried are in `impossible`, with the reason. Who
    asks for a task that the graph does not have gets a GraphError with the nearest name; only of a graph without any
    task, as components are called with where nothing is known, pairs can be asked for.
    """

    def __init__(self, tasks: Iterable[TaskDescriptor] = ()) -> None:
        self._graph = nx.MultiDiGraph()
        self._impossible: dict[tuple[str, str], str] = {}
        for task in structure(tasks, tuple[Any, ...], "the tasks of a transfer graph"):
            self.add_task(task)

    def __repr__(self) -> str:
        measured = sum(edge.measured for _, _, edge in self._graph.edges(data="edge"))
        tasks, edges = self._graph.number_of_nodes(), self._graph.number_of_edges()
        return f"{type(self).__name__}({tasks} tasks, {edges} edges, {measured} of them measured)"

    @property
    def networkx(self) -> nx.MultiDiGraph:
        """The graph itself: node attribute `descriptor`, edge attribute `edge`."""
        return self._graph

    def add_task(self, task: TaskDescriptor, fingerprint: str | None = None) -> None:
        """Add a task or replace its descriptor. `fingerprint` (`Task.content`) says what its data are, whatever it is
        called: by it `merge` knows a task again. Without one, that which the graph has stays.
        """
        of_kind(task, TaskDescriptor, "what is added to a transfer graph as a task")
        known = structure(fingerprint, str | None, f"task {task.task_id!r}: the fingerprint")
        if known is None and task.task_id in self._graph:
            known = self._graph.nodes[task.task_id]["fingerprint"]
        self._graph.add_node(task.task_id, descriptor=task, fingerprint=known)

    def fingerprint(self, task_id: str) -> str | None:
        """What the data of a task are known by; None if nobody has said. GraphError if the task is unknown."""
        self.task(task_id)
        known: str | None = self._graph.nodes[task_id]["fingerprint"]
        return known

    def remove_task(self, task_id: str) -> None:
        """Take a task out, with its edges; one that is not here is none."""
        _check_names(task_id)
        if task_id in self._graph:
            self._graph.remove_node(task_id)
        self._impossible = {pair: why for pair, why in self._impossible.items() if task_id not in pair}

    def add(self, edge: TransferEdge) -> None:
        """Add an edge, replacing one with the same evidence and finder. GraphError if an end is unknown.

        A measured edge shows that the pair is not impossible. What one edge of a pair says of `shared_representations`
        belongs to the pair: edges that say nothing of them take it over.
        """
        of_kind(edge, TransferEdge, "what is added to a transfer graph as an edge")
        self._check_ends("edge", edge.source, edge.target)
        if edge.measured:
            self._impossible.pop((edge.source, edge.target), None)
        key = _key(edge.evidence, edge.found_by)
        if self._graph.has_edge(edge.source, edge.target, key):
            self._graph.remove_edge(edge.source, edge.target, key)  # re-added at the end: newest last
        others = self.evidence(edge.source, edge.target)
        if not edge.shared_representations:
            told = next((o.shared_representations for o in reversed(others) if o.shared_representations), None)
            edge = edge if told is None else attrs.evolve(edge, shared_representations=dict(told))
        else:
            for other in (o for o in others if not o.shared_representations):
                filled = attrs.evolve(other, shared_representations=dict(edge.shared_representations))
                data = self._graph[edge.source][edge.target]
                data[other.evidence.value, other.found_by]["edge"] = filled
        self._graph.add_edge(edge.source, edge.target, key=key, edge=edge)

    def rule_out(self, source: str, target: str, reason: str | None) -> None:
        """Say that transfer from `source` to `target` cannot be tried, and why; with None, that it can after all.

        Edges that were estimated or predicted for the pair stay; where transfer was measured, nothing is recorded.
        GraphError if an end is unknown or the reason is empty.
        """
        self._check_ends("pair", source, target)
        if reason is None:
            self._impossible.pop((source, target), None)
            return
        if not structure(reason, str, f"pair {source!r} -> {target!r}: the reason"):
            raise GraphError(f"pair {source!r} -> {target!r}: say why transfer between them cannot be tried")
        edge = self.edge(source, target)
        if edge is None or not edge.measured:
            self._impossible[source, target] = reason

    @property
    def impossible(self) -> Mapping[tuple[str, str], str]:
        """Why transfer cannot be tried, by (source, target); filled by `rule_out`."""
        return MappingProxyType(self._impossible)

    def renamed(self, names: Mapping[str, str]) -> TransferGraph:
        """A copy in which tasks have other ids: `names` maps those of now. GraphError for one that is not here, or if
        two tasks would have one id.
        """
        names = structure(names, dict[str, str], "the new names")
        for name in names:
            self.task(name)
        called = {task: names.get(task, task) for task in self._graph}
        doubled = [name for name, count in Counter(called.values()).items() if count > 1]
        if doubled:
            whose = sorted(task for task, name in called.items() if name == doubled[0])
            raise GraphError(f"tasks {' and '.join(map(repr, whose))} would both be {doubled[0]!r}")
        made = TransferGraph()
        for task in self._graph:
            told = self.task(task)
            made.add_task(
                attrs.evolve(
                    told,
                    task_id=called[task],
                    prerequisites=tuple(called.get(each, each) for each in told.prerequisites),
                    transfer_efficiency={called.get(k, k): v for k, v in told.transfer_efficiency.items()},
                ),
                self.fingerprint(task),
            )
        for edge in self.all_edges():
            made.add(_of_pair(edge, called[edge.source], called[edge.target]))
        for (source, target), reason in self._impossible.items():
            made.rule_out(called[source], called[target], reason)
        return made

    def dated(self, when: datetime.datetime, origin: str = "") -> TransferGraph:
        """A copy whose edges were found at this time, by the run `origin`, where they do not say so themselves."""
        when, origin = structure(when, datetime.datetime, "when"), structure(origin, str, "origin")
        made = self.copy()

        def said(edge: TransferEdge) -> TransferEdge:
            inside = tuple(map(said, edge.measurements))
            return attrs.evolve(edge, when=edge.when or when, origin=edge.origin or origin, measurements=inside)

        for _, _, data in made._graph.edges(data=True):
            data["edge"] = said(data["edge"])
        return made

    def copy(self) -> TransferGraph:
        """Another graph with the same tasks, edges and impossible pairs."""
        made = TransferGraph()
        made._graph, made._impossible = self._graph.copy(), dict(self._impossible)
        return made

    def of_measured(self) -> TransferGraph:
        """A copy with only those edges that were measured."""
        made = TransferGraph()
        made._graph.add_nodes_from(self._graph.nodes(data=True))
        edges = self._graph.edges(keys=True, data="edge")
        made._graph.add_edges_from((s, t, key, {"edge": edge}) for s, t, key, edge in edges if edge.measured)
        made._impossible = dict(self._impossible)
        return made

    def merge(self, other: TransferGraph, *, same: Mapping[str, str] | None = None) -> Merged:
        """A new graph with the tasks, edges and impossible pairs of both, and where what was measured disagrees.

        Tasks are the same where their fingerprints are, whatever they are called (of two in one graph that both could
        be, neither is), then where their ids are; `same` maps ids of `other` to ids here and settles it. GraphError
        where two different tasks have one id. What `other` says of a task is the newer.

        All that was measured of a pair is pooled by its uncertainty (see `crosstask.pooling.pool`), each measurement
        once however often it comes (`TransferEdge.identity`): evidence is the same in whatever order, and however
        often, graphs are merged. Where repeated measurements show that coefficients drift, older ones count less:
        `Merged.ageing` says so. What was only estimated or predicted is not pooled: of one finder's the newest stays,
        or else the most certain, and the most certain finder speaks for a pair that nobody has measured.
        """
        of_kind(other, TransferGraph, "what is merged with a transfer graph")
        called = self._identified(other, same)
        theirs = other.renamed({theirs: ours for theirs, ours in called.items() if theirs != ours})
        both = TransferGraph()
        for graph in (self, theirs):
            for task in graph._graph:
                both.add_task(graph.task(task), graph.fingerprint(task))
        pairs = dict.fromkeys((*self._pairs(), *theirs._pairs()))
        for source, target in pairs:
            one, two = self._evidence(source, target), theirs._evidence(source, target)
            for edge in _united(one, two, (both.task(source), both.task(target))):
                both.add(edge)
        drift = both.drift()
        if rate := _rate(drift):
            for edge in [e for e in both.measured_edges() if e.measurements]:
                both.add(_pooled([edge], (both.task(edge.source), both.task(edge.target)), rate))
        for pair, reason in {**self._impossible, **theirs._impossible}.items():
            both.rule_out(*pair, reason)
        return Merged(both, both._disagreeing(drift), drift, {a: b for a, b in called.items() if a != b})

    def conflicts(self) -> list[Conflict]:
        """Pairs whose pooled measurements differ by more than their errors, and by what coefficients drift: by
        Cochran's Q, of all such tests 5 % false discoveries (Benjamini & Hochberg), the most certain first.
        """
        return self._disagreeing(self.drift())

    def drift(self) -> Drift | None:
        """How fast coefficients change, from the pairs that were measured at several times; None without one."""
        return estimate_drift([_repeats(list(edge.measurements)) for edge in self.measured_edges()])

    def _disagreeing(self, drift: Drift | None) -> list[Conflict]:
        tried = []
        for edge in self.measured_edges():
            if len(edge.measurements) > 1:
                found = _all_of(edge.measurements, _rate(drift))
                tried.append(Conflict(edge.source, edge.target, edge.measurements, found.q, found.p))
        most = false_discoveries([each.p for each in tried])
        return sorted((c for c in tried if c.p <= most), key=lambda c: (c.p, c.source, c.target))

    def _identified(self, other: TransferGraph, same: Mapping[str, str] | None) -> dict[str, str]:
        """What each task of another graph is called here."""
        said = structure({} if same is None else same, dict[str, str], "same")
        for theirs, ours in said.items():
            for name, graph, which in ((theirs, other, "other"), (ours, self, "this")):
                if name not in graph._graph:
                    known = nearest(name, graph._graph)
                    raise GraphError(f"same: {theirs!r} is {ours!r}: no task {name!r} in the {which} graph{known}")
        # by what their data are: tasks of each graph that have no namesake in the other; two of one graph may be either
        ours_alone = self._without(other, said.values())
        theirs_alone = other._without(self, said)
        again = {
            theirs[0]: ours_alone[print_][0]
            for print_, theirs in theirs_alone.items()
            if len(theirs) == len(ours_alone.get(print_, ())) == 1
        }
        called: dict[str, str] = {}
        for task in other._graph:
            if task in said:
                called[task] = said[task]
            elif task in self._graph:
                self._check_same(task, other)
                called[task] = task
            else:
                called[task] = again.get(task, task)
        return called

    def _without(self, other: TransferGraph, settled: Iterable[str]) -> dict[str, list[str]]:
        """By fingerprint, the tasks whose ids another graph does not have and that are not settled."""
        known, found = frozenset(settled), dict[str, list[str]]()
        for task in self._graph:
            print_ = self.fingerprint(task)
            if print_ is not None and task not in other._graph and task not in known:
                found.setdefault(print_, []).append(task)
        return found

    def _check_same(self, task: str, other: TransferGraph) -> None:
        """GraphError if a task of another graph is not ours of that id."""
        ours, theirs = self.task(task), other.task(task)
        prints = self.fingerprint(task), other.fingerprint(task)
        if None not in prints:
            differs = f"fingerprints {prints[0]} and {prints[1]}" if prints[0] != prints[1] else ""
        else:
            hard = ("task_type", "input_shape", "input_shapes", "output_dim", "classes")
            pairs = [(name, getattr(ours, name), getattr(theirs, name)) for name in hard]
            differs = next((f"{name} {a!r} and {b!r}" for name, a, b in pairs if a and b and a != b), "")
        if differs:
            told = f"task {task!r} is another one in the other graph ({differs})"
            how = f"same={{{task!r}: ID}} says which one of this graph it is (also {task!r} itself)"
            raise GraphError(f"{told}: {how}; `other.renamed({{{task!r}: NEW}})` gives it an id of its own")

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for source, targets in self._graph.adjacency():
            for target in targets:
                yield source, target

    def _check_ends(self, what: str, source: str, target: str) -> None:
        for end in (source, target):
            if not isinstance(end, str) or end not in self._graph:
                raise GraphError(f"{what} {source!r} -> {target!r}: no task {end!r}{nearest(end, self._graph)}")
        if source == target:
            raise GraphError(f"a {what} from task {source!r} to itself")

    def _check_known(self, *names: str) -> None:
        """GraphError for a name that is no task's: that nothing is known of it is no news of the pair. A graph without
        any task, which stands for nobody's having looked yet, knows nothing of whatever it is asked.
        """
        _check_names(*names)
        for name in names:
            if name not in self._graph and len(self._graph):
                self.task(name)

    @property
    def task_ids(self) -> list[str]:
        """Every task, in the order in which they were added."""
        return list(self._graph)

    def task(self, task_id: str) -> TaskDescriptor:
        """A task's descriptor. GraphError if unknown."""
        if not isinstance(task_id, str) or task_id not in self._graph:
            raise GraphError(f"no task {task_id!r} in the transfer graph{nearest(task_id, self._graph)}")
        descriptor: TaskDescriptor = self._graph.nodes[task_id]["descriptor"]
        return descriptor

    def all_edges(self) -> Iterator[TransferEdge]:
        """Every edge of every evidence."""
        for _, _, edge in self._graph.edges(data="edge"):
            yield edge

    def edges(self) -> Iterator[TransferEdge]:
        """The strongest edge of each pair."""
        for _, targets in self._graph.adjacency():
            for found in targets.values():
                yield _strongest(found.values())

    def measured_edges(self) -> list[TransferEdge]:
        """The strongest edge of each pair between which transfer was tried out: what headline figures are made of."""
        return [edge for edge in self.edges() if edge.measured]

    def __contains__(self, task_id: object) -> bool:
        """Whether the graph has a task."""
        return isinstance(task_id, str) and task_id in self._graph

    def edge(self, source: str, target: str) -> TransferEdge | None:
        """The strongest edge of a pair; None if nothing is known. GraphError if one of the tasks is unknown."""
        self._check_known(source, target)
        return self._strongest(source, target) if self._graph.has_edge(source, target) else None

    def evidence(self, source: str, target: str) -> list[TransferEdge]:
        """Every edge of a pair, one per kind of evidence and finder, in the order in which they were found. GraphError
        if one of the tasks is unknown.
        """
        self._check_known(source, target)
        return self._evidence(source, target)

    def _evidence(self, source: str, target: str) -> list[TransferEdge]:
        found = self._graph.get_edge_data(source, target, default={}).values()
        return [data["edge"] for data in found]

    def estimates(self, source: str, target: str) -> dict[str, float]:
        """The raw estimates of a pair by estimator, from all its edges; the newer one where two edges have it.
        GraphError if one of the tasks is unknown.
        """
        merged: dict[str, float] = {}
        for edge in self.evidence(source, target):
            merged |= edge.estimates
        return merged

    def _strongest(self, source: str, target: str) -> TransferEdge:
        return _strongest(self._graph[source][target].values())

    def coefficient(self, source: str, target: str, default: float = 0.0) -> float:
        """The transfer coefficient of the strongest edge of a pair; `default` where there is none. GraphError if one of
        the tasks is unknown.
        """
        edge = self.edge(source, target)
        return default if edge is None else edge.transfer_coefficient

    def edges_into(self, target: str) -> list[TransferEdge]:
        """Strongest edge from each source of `target`, best first. GraphError if the task is unknown."""
        self.task(target)
        found = [self._strongest(source, target) for source in self._graph.predecessors(target)]
        return sorted(found, key=lambda e: (-e.transfer_coefficient, e.source))

    def edges_out_of(self, source: str) -> list[TransferEdge]:
        """Strongest edge to each target of `source`, best first. GraphError if the task is unknown."""
        self.task(source)
        found = [self._strongest(source, target) for target in self._graph.successors(source)]
        return sorted(found, key=lambda e: (-e.transfer_coefficient, e.target))

    def best_sources(self, target: str, count: int | None = None, *, minimum: float = 0.0) -> list[TransferEdge]:
        """The sources that help `target` by more than `minimum`, best first. GraphError if the task is unknown."""
        minimum = structure(minimum, float, "minimum")
        return [e for e in self.edges_into(target) if e.transfer_coefficient > minimum][: _how_many(count, "count")]

    def negative_transfer(self) -> list[TransferEdge]:
        """Pairs where transfer hurts (the whole interval below zero, where there is one), worst first."""
        return sorted((e for e in self.edges() if e.hurts), key=lambda e: e.transfer_coefficient)

    def direction(self, source: str, target: str) -> TransferDirection:
        """Read off the whole graph, the first that holds: the source helps every other task (of three or more others):
        universal; both help one another: bidirectional; the source helps at least half of the others: multi-target; at
        least half of the others help the target: multi-source; else unidirectional. To help: a coefficient >= 0.2.
        """
        self._check_ends("pair", source, target)
        helps = {(a, b): self.coefficient(a, b) >= HELPS for a, b in ((source, target), (target, source))}
        helped = sum(self.coefficient(source, t) >= HELPS for t in self._graph.successors(source))
        helping = sum(self.coefficient(s, target) >= HELPS for s in self._graph.predecessors(target))
        return _direction(helped, helping, len(self._graph) - 1, mutual=all(helps.values()))

    def _directions(self) -> Callable[[str, str], TransferDirection]:
        """`direction`, of the graph as it is now, for whom asks it of every pair."""
        helped: dict[str, set[str]] = {task: set() for task in self._graph}
        for edge in self.edges():
            if edge.transfer_coefficient >= HELPS:
                helped[edge.source].add(edge.target)
        helping, others = Counter(target for targets in helped.values() for target in targets), len(self._graph) - 1

        def found(source: str, target: str) -> TransferDirection:
            mutual = target in helped[source] and source in helped[target]
            return _direction(len(helped[source]), helping[target], others, mutual=mutual)

        return found

    def communities(self, seed: int = 0) -> list[set[str]]:
        """Groups of tasks that help one another (Louvain on the positive coefficients), largest first."""
        seed = structure(seed, int, "seed")
        positive = nx.Graph()
        positive.add_nodes_from(self._graph)
        for e in self.edges():
            if e.transfer_coefficient > 0:
                known = positive.get_edge_data(e.source, e.target, {"weight": 0.0})["weight"]
                positive.add_edge(e.source, e.target, weight=known + e.transfer_coefficient)
        return sorted(nx.community.louvain_communities(positive, seed=seed), key=lambda c: (-len(c), sorted(c)))

    def centrality(self) -> dict[str, float]:
        """Per task: the sum of the positive coefficients it gives, over the number of other tasks. Of measured pairs;
        only where nothing was measured, of those that were estimated or predicted (see `told_edges`).
        """
        given = dict.fromkeys(self._graph, 0.0)
        for edge in self.told_edges():
            given[edge.source] += max(0.0, edge.transfer_coefficient)
        others = max(1, len(self._graph) - 1)
        return {task: total / others for task, total in given.items()}

    def metrics(self) -> dict[str, Any]:
        """Size, density, mean coefficient, hubs (the three most central tasks), antagonistic share, relation counts.

        These are of the strongest edge of each pair, whatever its evidence; `measured_edges` and
        `mean_measured_coefficient` (None without one) are of those that were tried out.
        """
        edges = list(self.edges())
        measured = [e.transfer_coefficient for e in edges if e.measured]
        tasks = len(self._graph)
        centrality = self.centrality()
        hubs = sorted((t for t in centrality if centrality[t] > 0), key=lambda t: (-centrality[t], t))[:3]
        return {
            "tasks": tasks,
            "edges": len(edges),
            "density": len(edges) / (tasks * (tasks - 1)) if tasks > 1 else 0.0,
            "mean_coefficient": sum(e.transfer_coefficient for e in edges) / len(edges) if edges else 0.0,
            "hubs": hubs,
            "antagonistic_share": sum(e.relation is RelationType.ANTAGONISTIC for e in edges) / len(edges)
            if edges
            else 0.0,
            "relations": dict(Counter(e.relation.value for e in edges)),
            "evidence": dict(Counter(e.evidence.value for e in edges)),
            "measured_edges": len(measured),
            "mean_measured_coefficient": sum(measured) / len(measured) if measured else None,
            "impossible_pairs": len(self._impossible),
        }

    def with_directions(self) -> TransferGraph:
        """A copy whose edges carry the direction read off the whole graph."""
        made, direction = self.copy(), self._directions()
        for source, target, data in made._graph.edges(data=True):
            data["edge"] = attrs.evolve(data["edge"], direction=direction(source, target))
        return made

    def to_json(self) -> dict[str, Any]:
        """Plain data with a schema name; `from_json` reads it back. Edges carry the direction of `with_directions`."""
        return {
            "schema": SCHEMA,
            "tasks": [plain(self.task(t)) for t in self._graph],
            "edges": [told for _, told in self._plain_edges()],
            "impossible": [each for into in self._ruled_out().values() for each in into],
            "fingerprints": self._fingerprints(),
        }

    def _fingerprints(self) -> dict[str, str]:
        return {task: known for task, known in self._graph.nodes(data="fingerprint") if known is not None}

    def _ruled_out(self) -> dict[str, list[dict[str, str]]]:
        """The impossible pairs as plain data, by target."""
        place = {task: number for number, task in enumerate(self._graph)}
        found: dict[str, list[dict[str, str]]] = {task: [] for task in self._graph}
        for source, target in sorted(self._impossible, key=lambda pair: place[pair[0]]):
            found[target].append({"source": source, "target": target, "reason": self._impossible[source, target]})
        return found

    def _plain_edges(self) -> Iterator[tuple[TransferEdge, dict[str, Any]]]:
        direction = self._directions()
        for edge in self.all_edges():
            yield edge, _plain_edge(edge, direction(edge.source, edge.target))

    @classmethod
    def from_json(cls, data: Any) -> TransferGraph:
        """Checked: GraphError says which task or edge is wrong, and how."""
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            got = data.get("schema") if isinstance(data, Mapping) else type(data).__name__
            raise GraphError(f"not a transfer graph: schema is {got!r}, expected {SCHEMA!r}")
        for part in _PARTS:
            if not isinstance(data.get(part, [] if part == "impossible" else None), list):  # graphs of before had none
                raise GraphError(f"transfer graph: {part!r} must be a list")
        items = ((part, item) for part in _PARTS for item in data.get(part, ()))
        return cls._of(itertools.chain(items, [("fingerprints", data.get("fingerprints", {}))]))

    @classmethod
    def _of(cls, pieces: Iterable[tuple[str, Any]]) -> TransferGraph:
        """Of plain data, one piece after another: tasks, then edges; impossible pairs and fingerprints wait till the
        end. GraphError says which is wrong, and how.
        """
        graph, read, waiting, prints = cls(), Counter[str](), list[Any](), dict[str, str]()
        for part, item in pieces:
            if part == "fingerprints":
                try:
                    prints |= structure(item, dict[str, str], part)
                except CrosstaskError as error:
                    raise GraphError(str(error)) from None
            elif part == "impossible":
                waiting.append(item)
            elif part in _PARTS:
                graph._take(part, read[part], item)
                read[part] += 1
        for number, item in enumerate(waiting):
            graph._take("impossible", number, item)
        for task_id, known in prints.items():
            graph.add_task(graph.task(task_id), known)
        return graph

    def _take(self, part: str, number: int, item: Any) -> None:
        try:
            made = structure(item if part == "edges" else numbers(item), _PARTS[part], f"{part}[{number}]")
            if isinstance(made, TaskDescriptor):
                if made.task_id in self._graph:
                    raise GraphError(f"task {made.task_id!r} appears twice")
                self.add_task(made)
            elif isinstance(made, TransferEdge):
                self.add(made)
            else:
                self.rule_out(made.source, made.target, made.reason)
        except RecursionError:
            raise GraphError(f"{part}[{number}] is nested too deeply to be read") from None
        except CrosstaskError as error:
            text = str(error)
            raise GraphError(text if text.startswith(f"{part}[") else f"{part}[{number}]: {text}") from None

    def export(self, path: str | Path) -> Path:
        """Write .json, .graphml or .gexf, by suffix. Each holds every descriptor, edge and impossible pair, and `load`
        reads them back as they are.

        In XML, a character of a name that XML cannot hold, or would change, is written as `\\uXXXX` and a backslash as
        two; the exact names stand in the records, which are JSON. GraphError for text that JSON cannot hold.
        """
        path = Path(structure(path, Path, "where a transfer graph is written"))
        if path.suffix == ".json":
            parts: dict[str, Iterator[Any]] = {
                "tasks": (plain(self.task(t)) for t in self._graph),
                "edges": (told for _, told in self._plain_edges()),
                "impossible": (each for into in self._ruled_out().values() for each in into),
            }
            write_lines(path, json_lines(SCHEMA, parts, {"fingerprints": self._fingerprints()}))
        elif path.suffix in (".graphml", ".gexf"):
            of_nodes: dict[str, type] = dict.fromkeys(("label", *_RECORDS["node"]), str)
            kinds = {"node": of_nodes, "edge": _EDGE_KINDS}
            lines = graphml_lines if path.suffix == ".graphml" else gexf_lines
            write_lines(path, lines(self._xml_nodes(), self._xml_edges(), kinds))
        else:
            raise GraphError(f"cannot write {path.name!r}: the suffix must be .json, .graphml or .gexf")
        return path

    def _xml_nodes(self) -> Iterator[tuple[str, dict[str, Any]]]:
        into = self._ruled_out()
        for t in self._graph:
            told = {"descriptor": text(plain(self.task(t))), "impossible": text(into[t])}
            if (known := self.fingerprint(t)) is not None:
                told["fingerprint"] = text(known)
            yield escaped(t), {"label": escaped(self.task(t).task_name), **told}

    def _xml_edges(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        ends = {task: escaped(task) for task in self._graph}
        for edge, told in self._plain_edges():
            shown = {
                name: escaped(value) if isinstance(value, str) else value
                for name, value in told.items()
                if name in _EDGE_KINDS and value is not None
            }
            shown |= {"weight": edge.transfer_coefficient, "record": text(told)}
            yield ends[edge.source], ends[edge.target], shown

    @classmethod
    def load(cls, path: str | Path) -> TransferGraph:
        """Read what `export` wrote. GraphError names the file and what is wrong in it."""
        path = Path(structure(path, Path, "where a transfer graph is read from"))
        if path.suffix not in (".json", ".graphml", ".gexf"):
            raise GraphError(f"cannot read {path.name!r}: the suffix must be .json, .graphml or .gexf")
        with _uncollected():
            with contextlib.suppress(Exception):
                return cls._of(_pieces(path))
            try:  # laid out otherwise, or wrong: as a whole all can be read that is right, and what is wrong is said
                if path.suffix == ".json":
                    data = json.loads(path.read_text(encoding="utf-8"))
                else:
                    data = _whole(_recorded(read_xml(path, _RECORDS)))
            except OSError as error:
                raise GraphError(f"{path}: cannot be read: {error.strerror or error}") from None
            except Exception as error:  # the readers raise many kinds: XML, JSON and key errors, all meaning the same
                raise GraphError(
                    f"{path}: not a transfer graph written by crosstask: {type(error).__name__}: {error}"
                ) from None
            try:
                return cls.from_json(data)
            except GraphError as error:
                raise GraphError(f"{path}: {error}") from None

    # As Python shows it -----------------------------------------------------------------------------------------------

    def to_frame(self) -> pd.DataFrame:
        """A pandas frame with a row for each edge, of every evidence, and one with evidence `impossible` and its
        `reason` for each pair between which transfer cannot be tried. CrosstaskError without pandas.
        """
        rows = []
        for edge, told in self._plain_edges():
            scalars = {name: value for name, value in told.items() if not isinstance(value, dict | list)}
            strongest = edge is self.edge(edge.source, edge.target)
            estimates = {f"estimate_{name}": value for name, value in edge.estimates.items()}
            rows.append({**scalars, "measured": edge.measured, "strongest": strongest, "reason": "", **estimates})
        for (source, target), reason in self._impossible.items():
            ends = {"source": source, "target": target, "evidence": "impossible"}
            rows.append({**ends, "measured": False, "strongest": False, "reason": reason})
        return frame(rows, [*(f.name for f in attrs.fields(TransferEdge)), "measured", "strongest", "reason"])

    def told_edges(self, *, guessed: bool | None = None) -> list[TransferEdge]:
        """The strongest edge of each pair, without those of impossible pairs: the measured ones; with `guessed` (by
        default only where nothing was measured) those that were only estimated or predicted, too.
        """
        known = [edge for edge in self.edges() if (edge.source, edge.target) not in self._impossible]
        if guessed is None:
            guessed = not any(edge.measured for edge in known)
        return [edge for edge in known if guessed or edge.measured]

    def plot(
        self, path: str | Path | None = None, *, guessed: bool | None = None, most: int | None = None, seed: int = 0
    ) -> Drawing:
        """A picture of who helps whom, which a notebook shows; written to `path` (.svg, or .png with Pillow) if given.

        It has the edges of `told_edges`, of these the `most` strongest (three for each task by default); what is not
        measured is dashed. `seed` decides where tasks are drawn. GraphError for a suffix that cannot be drawn.
        """
        seed = structure(seed, int, "seed")
        edges = sorted(self.told_edges(guessed=guessed), key=lambda e: -abs(e.transfer_coefficient))
        edges = edges[: 3 * len(self._graph) if most is None else _how_many(most, "most")]
        given = self.centrality()
        highest = max(given.values(), default=0.0) or 1.0
        used = [relation for relation in RelationType if any(edge.relation is relation for edge in edges)]
        how = "measured" if edges and all(edge.measured for edge in edges) else "dashed: not measured"
        made = network(
            f"Transfer between {len(self._graph)} tasks, {len(edges)} edges ({how})",
            {task: (self.task(task).task_name, given[task] / highest) for task in self._graph},
            [(e.source, e.target, e.transfer_coefficient, e.relation.value, not e.measured) for e in edges],
            {relation.value.replace("_", " "): relation.value for relation in used},
            seed=seed,
        )
        if path is not None:
            made.save(path)
        return made

    def _repr_html_(self) -> str:
        edges = sorted(self.told_edges(), key=lambda e: (-e.transfer_coefficient, e.source, e.target))
        rows = [
            (f"{e.source} → {e.target}", e.transfer_coefficient, e.low, e.high, e.relation.value, e.evidence.value)
            for e in edges
        ]
        left = sum(1 for _ in self.edges()) - len(edges)
        title = f"Transfer graph of {len(self._graph)} tasks: {len(edges)} pairs"
        title += f"; {left} more only estimated or predicted" if left else ""
        title += f"; {len(self._impossible)} impossible" if self._impossible else ""
        return table(title, ("Edge", "Coefficient", "Low", "High", "Relation", "Evidence"), rows)


@attrs.frozen
class Conflict:
    """A pair whose measurements differ by more than their errors: Cochran's Q and its p say so."""

    source: str
    target: str
    measurements: tuple[TransferEdge, ...]
    q: float
    p: float

    def __str__(self) -> str:
        each = (
            f"{e.transfer_coefficient:+.3f} ± {NORMAL95 * e.standard_error:.3f}{f' ({e.origin})' if e.origin else ''}"
            for e in self.measurements
        )
        told = f"Cochran's Q {self.q:.1f} with {len(self.measurements) - 1} degrees of freedom, p {self.p:.1g}"
        return f"{self.source} -> {self.target}: {' against '.join(each)}; {told}"


@attrs.frozen
class Merged:
    """Two graphs as one: where measurements disagree, how coefficients drift (None: no pair was measured at two times),
    and which tasks of the other were known here under another id (theirs: ours).
    """

    graph: TransferGraph
    conflicts: list[Conflict]
    drift: Drift | None = None
    known_as: dict[str, str] = attrs.field(factory=dict)

    @property
    def ageing(self) -> str:
        """Whether older measurements counted less, and by what."""
        if self.drift is None:
            return "no pair was measured at two times: nothing ages"
        drift, year = self.drift, 365.25
        told = ", ".join(f"{math.sqrt(rate * year):.3g}" for rate in (drift.low, drift.high))
        how = (
            f"a coefficient drifts by {math.sqrt(drift.rate * year):.3g} in a year (95 %: {told}; {drift.groups} pairs)"
        )
        return f"{how}: older ones count less" if drift.told else f"{how}: not told from none, nothing ages"


def _of_pair(edge: TransferEdge, source: str, target: str) -> TransferEdge:
    """An edge between other ids."""
    if (edge.source, edge.target) == (source, target):
        return edge
    inside = tuple(attrs.evolve(each, source=source, target=target) for each in edge.measurements)
    return attrs.evolve(edge, source=source, target=target, measurements=inside)


def _rank(edge: TransferEdge) -> tuple[Any, ...]:
    """A total order of edges: the newest, then the most certain comes last."""
    when = edge.when.timestamp() if edge.when is not None else -math.inf
    error = math.inf if edge.uncertainty is None else edge.uncertainty
    rest = str(edge.estimates), str(edge.shared_representations)
    return when, -error, edge.identity, edge.found_by, edge.origin, *rest


def _distinct(edges: Iterable[TransferEdge]) -> list[TransferEdge]:
    """The measurements behind edges of one pair, each once with its earliest date, in an order of their own."""
    found: dict[str, TransferEdge] = {}
    for edge in (inner for e in edges if e.measured for inner in e.measurements or (e,)):
        known = found.get(edge.identity)
        if known is None or _first(edge) < _first(known):
            found[edge.identity] = edge
    return sorted(found.values(), key=_first)


def _first(edge: TransferEdge) -> tuple[Any, ...]:
    return edge.when is None, edge.when.timestamp() if edge.when is not None else 0.0, *_rank(edge)[1:]


def _errors(edges: Iterable[TransferEdge]) -> list[float]:
    return [edge.standard_error for edge in edges]


def _repeats(edges: Iterable[TransferEdge]) -> Repeats:
    """Measurements of one pair, those that have a date, in days."""
    known = [(e, e.when.timestamp() / 86400) for e in edges if e.when is not None]
    return Repeats([e.transfer_coefficient for e, _ in known], _errors(e for e, _ in known), [t for _, t in known])


def _rate(drift: Drift | None) -> float:
    """How fast measurements age: not at all where drift is not told from none."""
    return drift.rate if drift is not None and drift.told else 0.0


def _all_of(parts: Sequence[TransferEdge], drift: float) -> Pooled:
    """Measurements of one pair pooled; those of a pair of which one has no date do not age."""
    dated = _repeats(parts)
    aged = len(dated.times) == len(parts)
    values = [e.transfer_coefficient for e in parts]
    return pool(values, _errors(parts), dated.times if aged else None, drift)


def _united(
    one: list[TransferEdge], two: list[TransferEdge], ends: tuple[TaskDescriptor, TaskDescriptor]
) -> list[TransferEdge]:
    """The evidence of a pair from two graphs, in the order in which it is to be added."""
    both = [*one, *two]
    if not (one and two) and not any(edge.measurements for edge in both):
        return both
    if [(e.identity, e.found_by) for e in one] == [(e.identity, e.found_by) for e in two] and not any(
        edge.measurements for edge in both
    ):
        return [min(pair, key=_first) for pair in zip(one, two, strict=True)]
    guessed: dict[tuple[str, str], TransferEdge] = {}
    for edge in both:
        key = (edge.evidence.value, edge.found_by)
        if not edge.measured and (key not in guessed or _rank(edge) > _rank(guessed[key])):
            guessed[key] = edge
    made = sorted(guessed.values(), key=lambda e: _rank(e)[1:])
    tried = sorted((edge for edge in both if edge.measured), key=_rank)
    return [*made, _pooled(tried, ends)] if tried else made


def _pooled(tried: list[TransferEdge], ends: tuple[TaskDescriptor, TaskDescriptor], drift: float = 0.0) -> TransferEdge:
    """One measured edge of several, the last of which has the last word where a number cannot be pooled."""
    parts = [
        attrs.evolve(e, shared_representations={}, estimates={}, direction=TransferDirection.UNIDIRECTIONAL)
        for e in _distinct(tried)
    ]
    shared = next((e.shared_representations for e in reversed(tried) if e.shared_representations), {})
    told: dict[str, Any] = {"shared_representations": shared, "estimates": {}}
    for edge in tried:
        told["estimates"] |= edge.estimates
    if len(parts) == 1:
        return attrs.evolve(parts[0], **told)
    found = _all_of(parts, drift)
    coefficient = max(-1.0, min(1.0, found.mean))
    heaviest = max(range(len(parts)), key=lambda n: found.weights[n])
    return TransferEdge(
        source=parts[0].source,
        target=parts[0].target,
        transfer_coefficient=coefficient,
        evidence=Evidence.MEASURED,
        found_by=", ".join(sorted({e.found_by for e in parts})),
        relation=relation_type(coefficient, *ends),
        uncertainty=found.error,
        low=min(coefficient, max(-1.0, found.mean - NORMAL95 * found.error)),
        high=max(coefficient, min(1.0, found.mean + NORMAL95 * found.error)),
        **_gain(parts),
        sample_efficiency_gain=_mean(parts, found, "sample_efficiency_gain"),
        convergence_speed_gain=_mean(parts, found, "convergence_speed_gain"),
        speed_capped=any(e.speed_capped for e in parts),
        best_strategy=parts[heaviest].best_strategy,
        when=max((e.when for e in parts if e.when is not None), default=None),
        origin=", ".join(sorted({e.origin for e in parts} - {""})),
        measurements=tuple(parts),
        **told,
    )


def _gain(parts: list[TransferEdge]) -> dict[str, Any]:
    """The gain in the metric, pooled by its own intervals, of those that have one."""
    known = [
        (e.accuracy_gain, max(e.accuracy_gain_high - e.accuracy_gain, e.accuracy_gain - e.accuracy_gain_low) / NORMAL95)
        for e in parts
        if e.accuracy_gain is not None and e.accuracy_gain_low is not None and e.accuracy_gain_high is not None
    ]
    if not known:
        return {}
    gain = pool([g for g, _ in known], [max(e, LEAST_ERROR) for _, e in known])
    half = NORMAL95 * gain.error
    return {
        "accuracy_gain": gain.mean,
        "accuracy_gain_low": gain.mean - half,
        "accuracy_gain_high": gain.mean + half,
    }


def _mean(parts: list[TransferEdge], found: Pooled, name: str) -> float | None:
    """Of a number that has no interval, with the weights of the coefficient; None where no measurement has it."""
    known = [(w, getattr(e, name)) for w, e in zip(found.weights, parts, strict=True) if getattr(e, name) is not None]
    total = sum(w for w, _ in known)
    return sum(w * value for w, value in known) / total if total else None


def _strongest(found: Iterable[Mapping[str, TransferEdge]]) -> TransferEdge:
    """Of the edges of one pair, in the order in which they were found: the newest measured one, or the newest."""
    best: TransferEdge | None = None
    for data in found:
        edge = data["edge"]
        if best is None or edge.measured or not best.measured:
            best = edge
    assert best is not None
    return best


@record
class _RuledOut:
    """An impossible pair in a file."""

    source: str
    target: str
    reason: str


_PARTS: dict[str, type] = {"tasks": TaskDescriptor, "edges": TransferEdge, "impossible": _RuledOut}
"""The lists of a file, in the order in which they are read, and what they hold."""


@functools.lru_cache(maxsize=1024)
def _key(evidence: Evidence, found_by: str) -> tuple[str, str]:
    """What an edge of a pair is known by in the graph: one object for a million edges."""
    return evidence.value, found_by


def _check_names(*names: Any) -> None:
    for name in names:
        if not isinstance(name, str):
            raise GraphError(f"a task is named by its id, a string, got a {type(name).__name__}")


def _how_many(count: int | None, where: str) -> int | None:
    """How many to take; None: all."""
    if count is not None and structure(count, int, where) < 0:
        raise GraphError(f"{where} must be at least 0, got {count}")
    return count


def _direction(helped: int, helping: int, others: int, *, mutual: bool) -> TransferDirection:
    """See `TransferGraph.direction`: of a pair whose source helps `helped` and whose target is helped by `helping`."""
    if helped == others >= 3:
        return TransferDirection.UNIVERSAL
    if mutual:
        return TransferDirection.BIDIRECTIONAL
    if helped >= max(2, others / 2):
        return TransferDirection.MULTI_TARGET
    if helping >= max(2, others / 2):
        return TransferDirection.MULTI_SOURCE
    return TransferDirection.UNIDIRECTIONAL


# --- Files


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Inside, nobody looks for rings of objects: what a file holds of a graph has none, and millions are made."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_RECORDS = {"node": ("descriptor", "impossible", "fingerprint"), "edge": ("record",)}
"""Attributes of nodes and edges in XML that hold JSON: all that is read back."""
_EDGE_KINDS: dict[str, type] = {
    **dict.fromkeys(
        ("evidence", "found_by", "relation", "direction", "best_strategy", "when", "origin", "site", "record"), str
    ),
    **dict.fromkeys(("transfer_coefficient", "weight", *_NUMBERS), float),
    "speed_capped": bool,
}
"""Attributes of edges in XML, by their types: those that are single values, for who looks at them elsewhere."""


def _plain_edge(edge: TransferEdge, direction: TransferDirection) -> dict[str, Any]:
    """As `unstructure`, of an edge that has this direction; a million of them are written."""
    told = dict(vars(edge))
    told["evidence"], told["relation"], told["direction"] = edge.evidence.value, edge.relation.value, direction.value
    told["when"] = None if edge.when is None else edge.when.isoformat()
    told["measurements"] = [_plain_edge(each, each.direction) for each in edge.measurements]
    for name in ("shared_representations", "estimates"):
        told[name] = dict(told[name])
    return told


def _pieces(path: Path) -> Iterator[tuple[str, Any]]:
    """A file, as `TransferGraph._of` takes it: of a million edges no plain data are held beside what is made of them.
    A text that many edges have is there once.
    """
    json_file = path.suffix == ".json"
    for part, item in json_pieces(path, SCHEMA, _PARTS) if json_file else _recorded(read_xml(path, _RECORDS)):
        if part == "edges":
            _share(item)
        yield part, item


def _share(edge: dict[str, Any]) -> None:
    for name in ("source", "target", "found_by", "best_strategy", "origin", "site"):
        if type(value := edge.get(name)) is str:
            edge[name] = sys.intern(value)
    for name in ("estimates", "shared_representations"):
        if told := edge.get(name):
            edge[name] = {sys.intern(key): value for key, value in told.items()}
    for each in edge.get("measurements", ()):
        _share(each)


def _recorded(found: Iterable[tuple[str, Mapping[str, str]]]) -> Iterator[tuple[str, Any]]:
    """Likewise of the records of nodes and edges in XML."""
    for scope, told in found:
        if scope == "edge":
            yield "edges", json.loads(told["record"])
            continue
        task = json.loads(told["descriptor"])
        yield "tasks", task
        for each in json.loads(told.get("impossible", "[]")):
            yield "impossible", each
        if told.get("fingerprint"):
            yield "fingerprints", {task["task_id"]: json.loads(told["fingerprint"])}


def _whole(pieces: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """What `from_json` reads."""
    data: dict[str, Any] = {"schema": SCHEMA, "tasks": [], "edges": [], "impossible": [], "fingerprints": {}}
    for part, item in pieces:
        if part == "fingerprints":
            data[part] |= item
        else:
            data[part].append(item)
    return data
