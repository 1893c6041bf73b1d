"""The transfer graph: a networkx MultiDiGraph behind a typed face."""

from __future__ import annotations

import enum
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs
import networkx as nx

from crosstask.descriptors import TaskDescriptor
from crosstask.drawing import Drawing, network
from crosstask.errors import CrosstaskError, GraphError, nearest, of_kind
from crosstask.options import option, record, structure, unstructure
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


HELPS = 0.2
"""A coefficient from which a task is said to help another (below it they are independent)."""


def relation_type(
    coefficient: float, source: TaskDescriptor | None = None, target: TaskDescriptor | None = None
) -> RelationType:
    """Relation of a pair. From 0.2 to 0.5 tasks of different types, or without a common skill, are complementary."""
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
    the speed gain is a lower bound (see `TransferResult.speed_capped`).
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
    sample_efficiency_gain: float | None = None
    convergence_speed_gain: float | None = None
    speed_capped: bool = False
    shared_representations: dict[str, float] = attrs.field(factory=dict)
    best_strategy: str | None = None
    estimates: dict[str, float] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if self.source == self.target:
            raise GraphError(f"an edge from task {self.source!r} to itself")
        for kind, values in (("estimate", self.estimates), ("shared representation", self.shared_representations)):
            for name, value in values.items():
                if not math.isfinite(value):
                    raise GraphError(f"edge {self.source!r} -> {self.target!r}: the {kind} {name!r} is {value}")
        for name in _NUMBERS:
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                told = f"{name} is {number}; where it is unknown, say None"
                raise GraphError(f"edge {self.source!r} -> {self.target!r}: {told}")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise GraphError(f"edge {self.source!r} -> {self.target!r}: low {self.low} is above high {self.high}")

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
    only estimated or predicted. Pairs between which transfer cannot be tried are in `impossible`, with the reason.
    """

    def __init__(self, tasks: Iterable[TaskDescriptor] = ()) -> None:
        self._graph = nx.MultiDiGraph()
        self._impossible: dict[tuple[str, str], str] = {}
        for task in structure(tasks, tuple[Any, ...], "the tasks of a transfer graph"):
            self.add_task(task)

    @property
    def networkx(self) -> nx.MultiDiGraph:
        """The graph itself: node attribute `descriptor`, edge attribute `edge`."""
        return self._graph

    def add_task(self, task: TaskDescriptor) -> None:
        """Add a task or replace its descriptor."""
        of_kind(task, TaskDescriptor, "what is added to a transfer graph as a task")
        self._graph.add_node(task.task_id, descriptor=task)

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
        key = (edge.evidence.value, edge.found_by)
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

    def merge(self, other: TransferGraph) -> TransferGraph:
        """A new graph with the tasks, edges and impossible pairs of both.

        What `other` says is the newer: its descriptor of a task that both have, its edge of the same evidence and
        finder.
        """
        of_kind(other, TransferGraph, "what is merged with a transfer graph")
        both = TransferGraph([*map(self.task, self._graph), *map(other.task, other._graph)])
        for graph in (self, other):
            for edge in graph.all_edges():
                both.add(edge)
        for pair, reason in {**self._impossible, **other._impossible}.items():
            both.rule_out(*pair, reason)
        return both

    def _check_ends(self, what: str, source: str, target: str) -> None:
        for end in (source, target):
            if not isinstance(end, str) or end not in self._graph:
                raise GraphError(f"{what} {source!r} -> {target!r}: no task {end!r}{nearest(end, self._graph)}")
        if source == target:
            raise GraphError(f"a {what} from task {source!r} to itself")

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

    def edge(self, source: str, target: str) -> TransferEdge | None:
        """The strongest edge of a pair; None if nothing is known."""
        _check_names(source, target)
        return self._strongest(source, target) if self._graph.has_edge(source, target) else None

    def evidence(self, source: str, target: str) -> list[TransferEdge]:
        """Every edge of a pair, one per kind of evidence and finder, in the order in which they were found."""
        _check_names(source, target)
        found = self._graph.get_edge_data(source, target, default={}).values()
        return [data["edge"] for data in found]

    def estimates(self, source: str, target: str) -> dict[str, float]:
        """The raw estimates of a pair by estimator, from all its edges; the newer one where two edges have it."""
        merged: dict[str, float] = {}
        for edge in self.evidence(source, target):
            merged |= edge.estimates
        return merged

    def _strongest(self, source: str, target: str) -> TransferEdge:
        return _strongest(self._graph[source][target].values())

    def coefficient(self, source: str, target: str, default: float = 0.0) -> float:
        """The transfer coefficient of the strongest edge of a pair; `default` where there is none."""
        edge = self.edge(source, target)
        return default if edge is None else edge.transfer_coefficient

    def edges_into(self, target: str) -> list[TransferEdge]:
        """Strongest edge from each source of `target`, best first."""
        self.task(target)
        found = [self._strongest(source, target) for source in self._graph.predecessors(target)]
        return sorted(found, key=lambda e: (-e.transfer_coefficient, e.source))

    def edges_out_of(self, source: str) -> list[TransferEdge]:
        """Strongest edge to each target of `source`, best first."""
        self.task(source)
        found = [self._strongest(source, target) for target in self._graph.successors(source)]
        return sorted(found, key=lambda e: (-e.transfer_coefficient, e.target))

    def best_sources(self, target: str, count: int | None = None, *, minimum: float = 0.0) -> list[TransferEdge]:
        """The sources that help `target` by more than `minimum`, best first."""
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

    def _directions(self) -> dict[tuple[str, str], TransferDirection]:
        """`direction` of every pair that has an edge, in one pass."""
        known = {(edge.source, edge.target): edge.transfer_coefficient >= HELPS for edge in self.edges()}
        helped = Counter(source for (source, _), helps in known.items() if helps)
        helping = Counter(target for (_, target), helps in known.items() if helps)
        others = len(self._graph) - 1
        return {
            (a, b): _direction(helped[a], helping[b], others, mutual=helps and known.get((b, a), False))
            for (a, b), helps in known.items()
        }

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
        copy, directions = TransferGraph(map(self.task, self._graph)), self._directions()
        copy._impossible = dict(self._impossible)
        for edge in self.all_edges():
            copy.add(attrs.evolve(edge, direction=directions[edge.source, edge.target]))
        return copy

    def to_json(self) -> dict[str, Any]:
        """Plain data with a schema name; `from_json` reads it back. Edges carry the direction of `with_directions`."""
        return {
            "schema": SCHEMA,
            "tasks": [_plain(self.task(t)) for t in self._graph],
            "edges": [plain for _, plain in self._plain_edges()],
            "impossible": [each for into in self._ruled_out().values() for each in into],
        }

    def _lines(self) -> Iterator[str]:
        """`to_json` as text, a task, edge or pair on each line: no graph of a million edges is there twice."""
        yield f'{{\n "schema": {json.dumps(SCHEMA)}'
        parts: dict[str, Iterator[Any]] = {
            "tasks": (_plain(self.task(t)) for t in self._graph),
            "edges": (plain for _, plain in self._plain_edges()),
            "impossible": (each for into in self._ruled_out().values() for each in into),
        }
        for name, items in parts.items():
            yield f',\n "{name}": ['
            before = "\n  "
            for item in items:
                yield before + _text(item)
                before = ",\n  "
            yield "]" if before == "\n  " else "\n ]"
        yield "\n}\n"

    def _ruled_out(self) -> dict[str, list[dict[str, str]]]:
        """The impossible pairs as plain data, by target."""
        place = {task: number for number, task in enumerate(self._graph)}
        found: dict[str, list[dict[str, str]]] = {task: [] for task in self._graph}
        for source, target in sorted(self._impossible, key=lambda pair: place[pair[0]]):
            found[target].append({"source": source, "target": target, "reason": self._impossible[source, target]})
        return found

    def _plain_edges(self) -> Iterator[tuple[TransferEdge, dict[str, Any]]]:
        directions = self._directions()
        for edge in self.all_edges():
            yield edge, {**unstructure(edge), "direction": directions[edge.source, edge.target].value}

    @classmethod
    def from_json(cls, data: Any) -> TransferGraph:
        """Checked: GraphError says which task or edge is wrong, and how."""
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            got = data.get("schema") if isinstance(data, Mapping) else type(data).__name__
            raise GraphError(f"not a transfer graph: schema is {got!r}, expected {SCHEMA!r}")
        graph = cls()
        for part, kind in (("tasks", TaskDescriptor), ("edges", TransferEdge), ("impossible", _RuledOut)):
            items = data.get(part, [] if part == "impossible" else None)  # graphs of before had none
            if not isinstance(items, list):
                raise GraphError(f"transfer graph: {part!r} must be a list")
            for number, item in enumerate(items):
                try:
                    made = structure(_numbers(item), kind, f"{part}[{number}]")
                    if isinstance(made, TaskDescriptor):
                        if made.task_id in graph._graph:
                            raise GraphError(f"task {made.task_id!r} appears twice")
                        graph.add_task(made)
                    elif isinstance(made, TransferEdge):
                        graph.add(made)
                    else:
                        graph.rule_out(made.source, made.target, made.reason)
                except CrosstaskError as error:
                    text = str(error)
                    raise GraphError(text if text.startswith(f"{part}[") else f"{part}[{number}]: {text}") from None
        return graph

    def export(self, path: str | Path) -> Path:
        """Write .json, .graphml or .gexf, by suffix. Each holds every descriptor, edge and impossible pair, and `load`
        reads them back as they are.

        In XML, a character of a name that XML cannot hold, or would change, is written as `\\uXXXX` and a backslash as
        two; the exact names stand in the records, which are JSON. GraphError for text that JSON cannot hold.
        """
        path = Path(structure(path, Path, "where a transfer graph is written"))
        if path.suffix == ".json":
            part = path.with_name(f".{path.name}.part")
            try:
                with part.open("w", encoding="utf-8") as file:
                    file.writelines(self._lines())
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        elif path.suffix in (".graphml", ".gexf"):
            flat = nx.MultiDiGraph()
            into = self._ruled_out()
            for t in self._graph:
                record = {"descriptor": _text(_plain(self.task(t))), "impossible": _text(into[t])}
                flat.add_node(_escaped(t), label=_escaped(self.task(t).task_name), **record)
            for number, (edge, plain) in enumerate(self._plain_edges()):
                shown = {k: _escaped(v) if isinstance(v, str) else v for k, v in plain.items() if k not in _ENDS}
                shown = {k: v for k, v in shown.items() if isinstance(v, str | int | float)}
                weight = {"weight": edge.transfer_coefficient, "record": _text(plain)}
                flat.add_edge(_escaped(edge.source), _escaped(edge.target), key=number, **shown, **weight)
            (nx.write_graphml if path.suffix == ".graphml" else nx.write_gexf)(flat, path)
        else:
            raise GraphError(f"cannot write {path.name!r}: the suffix must be .json, .graphml or .gexf")
        return path

    @classmethod
    def load(cls, path: str | Path) -> TransferGraph:
        """Read what `export` wrote. GraphError names the file and what is wrong in it."""
        path = Path(structure(path, Path, "where a transfer graph is read from"))
        if path.suffix not in (".json", ".graphml", ".gexf"):
            raise GraphError(f"cannot read {path.name!r}: the suffix must be .json, .graphml or .gexf")
        try:
            if path.suffix == ".json":
                data = json.loads(path.read_text(encoding="utf-8"))
            else:
                flat = nx.read_graphml(path) if path.suffix == ".graphml" else nx.read_gexf(path)
                nodes = [d for _, d in flat.nodes(data=True)]
                data = {
                    "schema": SCHEMA,
                    "tasks": [json.loads(d["descriptor"]) for d in nodes],
                    "edges": [json.loads(d["record"]) for _, _, d in flat.edges(data=True)],
                    "impossible": [pair for d in nodes for pair in json.loads(d.get("impossible", "[]"))],
                }
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
        for edge, plain in self._plain_edges():
            scalars = {name: value for name, value in plain.items() if not isinstance(value, dict)}
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

_ENDS = ("source", "target")
_NUMBER = "$number"  # no field is called so: {"$number": "nan"} stands for what JSON has no number for
_NOT_XML = re.compile("[^ -\\[\\]-~\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def _plain(value: Any) -> Any:
    """As `unstructure`, but numbers that are not finite can be read back (`_numbers`)."""
    if attrs.has(type(value)):
        return {f.name: _plain(getattr(value, f.name)) for f in attrs.fields(type(value)) if f.init}
    if isinstance(value, float) and not math.isfinite(value):
        return {_NUMBER: repr(value)}
    if isinstance(value, Mapping):
        return {str(unstructure(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return unstructure(value)


def _numbers(value: Any) -> Any:
    """What `_plain` made, with its numbers; everything else unchanged."""
    if isinstance(value, dict):
        if set(value) == {_NUMBER} and value[_NUMBER] in ("nan", "inf", "-inf"):
            return float(value[_NUMBER])
        return {key: _numbers(item) for key, item in value.items()}
    return [_numbers(item) for item in value] if isinstance(value, list) else value


def _text(plain: Any) -> str:
    """JSON. GraphError for the two halves of a surrogate pair as characters: JSON would make them one."""
    for text in _strings(plain):
        if _PAIR.search(text):
            told = "two surrogates in a row, which no file can tell from the character that they encode"
            raise GraphError(f"{text!r} cannot be written: it holds {told}")
    return json.dumps(plain, allow_nan=False)


def _strings(plain: Any) -> Iterator[str]:
    if isinstance(plain, str):
        yield plain
    elif isinstance(plain, dict):
        for key, item in plain.items():
            yield key
            yield from _strings(item)
    elif isinstance(plain, list):
        for item in plain:
            yield from _strings(item)


def _escaped(text: str) -> str:
    """For XML; different texts stay different."""
    return _NOT_XML.sub(lambda found: "\\\\" if found[0] == "\\" else f"\\u{ord(found[0]):04x}", text)
