"""A manifest from what there is: an engine, the folder of a run or of an engine, a store, a graph."""

from __future__ import annotations

import contextlib
import datetime
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
from torch import nn

from crosstask.descriptors import TaskDescriptor
from crosstask.engine import TransferEngine
from crosstask.engine_files import HEAD
from crosstask.errors import CrosstaskError
from crosstask.graph import Evidence, TransferEdge, TransferGraph, relation_type
from crosstask.job import load_run
from crosstask.learning.metrics import standard_error
from crosstask.learning.models import ModelSpec
from crosstask.learning.own_models import restored
from crosstask.options import structure
from crosstask.points.distillation import Distilled
from crosstask.points.store import Row, Store
from crosstask.records import Curriculum, MetaKnowledge, RunRecord, TransferResult
from crosstask.registry import Registry
from crosstask.store import open_store
from crosstask.tasks import Task
from crosstask_bundles.errors import BundleError
from crosstask_bundles.manifest import BundledTask, Origin, TransferManifest, create_transfer_manifest


@attrs.define
class _Parts:
    """What a bundle is going to be made of."""

    graph: TransferGraph
    origin: Origin
    tasks: list[BundledTask] = attrs.field(factory=list)
    knowledge: list[Distilled] = attrs.field(factory=list)
    curricula: list[Curriculum] = attrs.field(factory=list)
    models: dict[str, nn.Module] = attrs.field(factory=dict)


def export(
    source: TransferEngine | Store | str | Path,
    *,
    weights: bool = False,
    guesses: bool = True,
    name: str | None = None,
    licence: str = "",
    licence_text: str = "",
    registry: Registry | None = None,
) -> TransferManifest:
    """A manifest of what an engine, the folder of a run or of a saved engine, a store (or its path or URL) or a graph's
    file knows: edges with their run and date, knowledge, curricula, and with `weights` the tasks' models.

    Without `guesses` only what was measured. BundleError if nothing is there to export.
    """
    parts = _parts(source, weights, registry)
    if not guesses:
        parts.graph = _measured(parts.graph)
    edges = list(parts.graph.all_edges())
    if not (edges or parts.knowledge or parts.curricula or parts.models):
        raise BundleError("there is nothing to export: no edge, no knowledge, no curriculum, no model")
    return create_transfer_manifest(
        edges,
        parts.knowledge,
        tasks=parts.tasks,
        curricula=parts.curricula,
        weights=parts.models,
        name=name or parts.origin.name or "bundle",
        licence=licence,
        licence_text=licence_text,
        origin=parts.origin,
    )


def _parts(source: Any, weights: bool, registry: Registry | None) -> _Parts:
    if isinstance(source, TransferEngine):
        return _of_engine(source, weights)
    if isinstance(source, Store):
        return _of_store(source, weights)
    path = Path(structure(source, str, "what is exported") if not isinstance(source, Path) else source)
    if (path / "run.json").is_file():
        return _of_run(path, weights, registry)
    if (path / HEAD).is_file():
        with TransferEngine.open(path, registry=registry, discoverers=[]) as engine:
            return _of_engine(engine, weights)
    if path.suffix in (".json", ".graphml", ".gexf") and path.is_file():
        graph = TransferGraph.load(path)
        return _Parts(graph, Origin(name=path.stem), list(_tasks(graph)))
    if path.is_dir():
        raise BundleError(f"{path} is the folder of no run and of no engine: it has neither run.json nor {HEAD}")
    if "://" not in str(source) and not path.is_file():
        raise BundleError(f"no run, engine, store or graph at {path}")
    with _opened(str(source), registry) as store:
        return _of_store(store, weights)


@contextlib.contextmanager
def _opened(url: str, registry: Registry | None) -> Iterator[Store]:
    asked = registry is None and "://" in url  # a path needs nobody's opener
    store = open_store(url, registry=Registry.installed() if asked else registry)
    try:
        yield store
    finally:
        store.close()


def _tasks(graph: TransferGraph, prints: dict[str, str] | None = None) -> Iterator[BundledTask]:
    for task_id in graph.task_ids:
        content = graph.fingerprint(task_id)
        known = (prints or {}).get(task_id)
        yield BundledTask(descriptor=graph.task(task_id), content=content, fingerprint=known)


def _of_engine(engine: TransferEngine, weights: bool) -> _Parts:
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    held = [*engine.portfolio, *engine.portfolio.unseen]
    prints = {task.task_id: task.fingerprint() for task in held if task.content() is not None}
    graph = engine.graph.dated(now, engine.run.run_id)
    return _Parts(
        graph,
        Origin(run_id=engine.run.run_id, name=engine.portfolio.name, seed=engine.seed),
        list(_tasks(graph, prints)),
        list(engine.meta_knowledge),
        list(engine.curricula),
        {task.task_id: task.model for task in held if task.model is not None} if weights else {},
    )


def _of_run(folder: Path, weights: bool, registry: Registry | None) -> _Parts:
    record: RunRecord = load_run(folder)
    try:
        graph = TransferGraph.load(folder / "graph.json")
    except CrosstaskError as error:
        raise BundleError(f"{folder}: the run left no graph: {error}") from None
    when = datetime.datetime.fromisoformat(record.started) if record.started else None
    if when is not None:
        graph = graph.dated(when, record.run_id)
    origin = Origin(run_id=record.run_id, name=record.name, seed=record.seed, started=record.started)
    parts = _Parts(graph, origin, list(_tasks(graph)))
    if (folder / "store.db").is_file():
        with _opened(str(folder / "store.db"), registry) as store:
            own = _of_store(store, weights, record.run_id)
        prints = {each.descriptor.task_id: each.fingerprint for each in own.tasks if each.fingerprint is not None}
        parts.tasks = list(_tasks(graph, prints))
        parts.knowledge, parts.curricula = own.knowledge, own.curricula
        parts.models = {task: model for task, model in own.models.items() if task in graph.task_ids}
    return parts


def _measured(graph: TransferGraph) -> TransferGraph:
    made = TransferGraph()
    for task_id in graph.task_ids:
        made.add_task(graph.task(task_id), graph.fingerprint(task_id))
    for edge in graph.all_edges():
        if edge.measured:
            made.add(edge)
    return made


# Stores ---------------------------------------------------------------------------------------------------------------


def _of_store(store: Store, weights: bool, run_id: str | None = None) -> _Parts:
    """What a store holds, of one run or of all. It knows tasks by their fingerprints: of an id that two different tasks
    had, nobody can say which one was meant, and it is left to its name.
    """

    def rows(kind: str) -> Iterable[Row]:
        found = store.rows(kind) if kind in store.kinds() else ()
        wanted = (row for row in found if row.damage is None)
        return [row for row in wanted if run_id is None or kind == "tasks" or row.run_id == run_id]

    tasks, prints = _stored_tasks(rows("tasks"))
    graph = _stored_graph(rows("transfers"), tasks, prints)
    knowledge = []
    for row in rows("knowledge"):
        held = store.get("knowledge", row.key)
        if held is not None:
            knowledge.append(Distilled(structure(held.payload, MetaKnowledge, "stored knowledge"), held.tensors))
    curricula = [structure(row.payload, Curriculum, "stored curriculum") for row in rows("curricula")]
    models = _stored_models(store, rows("models"), tasks) if weights else {}
    parts = _Parts(graph, Origin(run_id=run_id or "", name="store"), [], knowledge, curricula, models)
    parts.tasks = list(_tasks(graph, prints))
    return parts


def _stored_tasks(rows: Iterable[Row]) -> tuple[dict[str, TaskDescriptor], dict[str, str]]:
    """Descriptors and fingerprints by id."""
    tasks: dict[str, TaskDescriptor] = {}
    prints: dict[str, list[str]] = {}
    for row in rows:
        descriptor = TaskDescriptor.from_json(row.payload)
        tasks[descriptor.task_id] = descriptor
        if Task(descriptor=descriptor).fingerprint() != row.key:  # else there were no data: only a name
            prints.setdefault(descriptor.task_id, []).append(row.key)
    return tasks, {task_id: keys[0] for task_id, keys in prints.items() if len(keys) == 1}


def _stored_graph(rows: Iterable[Row], tasks: dict[str, TaskDescriptor], prints: dict[str, str]) -> TransferGraph:
    """The transfers of a store, those of a pair by one strategy pooled: of each seed one, since what has a seed in
    common is not independent, with all samples rather than with some of them, on test data, of the most repeats. Of
    tasks whose data are not known to be the same all along, only the newest.
    """
    chosen: dict[tuple[str, str, str], dict[int, tuple[tuple[bool, float, int], TransferEdge]]] = {}
    for row in rows:
        result = _result(row, tasks)
        if result is None:
            continue
        samples = math.inf if result.budget.samples is None else result.budget.samples
        rank = (result.split == "test", samples, result.seeds)
        told = chosen.setdefault((result.source, result.target, result.strategy), {})
        if not {result.source, result.target} <= prints.keys():
            told = {seed: known for seed, known in told.items() if seed == result.seed}
            chosen[result.source, result.target, result.strategy] = told
        if result.seed not in told or rank >= told[result.seed][0]:
            told[result.seed] = rank, _edge(row, result, tasks)
    graph = TransferGraph(tasks.values())
    layers = max(map(len, chosen.values()), default=0)
    for number in range(layers):  # those of another seed are another measurement
        layer = TransferGraph(tasks.values())
        for own in chosen.values():
            for _, edge in list(own.values())[number : number + 1]:
                layer.add(edge)
        graph = layer if not number else graph.merge(layer).graph
    return graph


def _result(row: Row, tasks: dict[str, TaskDescriptor]) -> TransferResult | None:
    """A stored transfer; None for another thing of that kind (a control, a fold)."""
    try:
        result = structure(row.payload, TransferResult, "stored transfer")
    except CrosstaskError:
        return None
    return result if {result.source, result.target} <= tasks.keys() else None


def _edge(row: Row, result: TransferResult, tasks: dict[str, TaskDescriptor]) -> TransferEdge:
    """The edge that it is."""
    found, gain = result.coefficient, result.performance_gain
    created = row.created
    if created is not None and created.tzinfo is None:
        created = created.replace(tzinfo=datetime.UTC)
    return TransferEdge(
        source=result.source,
        target=result.target,
        transfer_coefficient=found.mean,
        evidence=Evidence.MEASURED,
        found_by=result.strategy,
        relation=relation_type(found.mean, tasks[result.source], tasks[result.target]),
        uncertainty=standard_error(found),
        low=found.low,
        high=found.high,
        accuracy_gain=gain.mean,
        accuracy_gain_low=gain.low,
        accuracy_gain_high=gain.high,
        score=result.score.mean,
        score_low=result.score.low,
        score_high=result.score.high,
        sample_efficiency_gain=result.sample_efficiency_gain,
        convergence_speed_gain=result.convergence_speed_gain,
        speed_capped=result.speed_capped,
        best_strategy=result.strategy,
        when=created,
        origin=row.run_id,
    )


def _stored_models(store: Store, rows: Iterable[Row], tasks: dict[str, TaskDescriptor]) -> dict[str, nn.Module]:
    """The tasks' own models, the newest of each; not those that code of the user's makes."""
    found: dict[str, nn.Module] = {}
    for row in rows:
        told = row.payload
        if not isinstance(told, dict) or set(told) != {"task", "model", "budget", "seed"} or told["task"] not in tasks:
            continue
        spec = structure(told["model"], ModelSpec, "stored model")
        held = store.get("models", row.key)
        if ":" in spec.kind or held is None:
            continue
        task = Task(descriptor=tasks[told["task"]])
        found[task.task_id] = restored(spec, task, int(told["seed"]), held.tensors, "cpu")
    return found
