"""Which tasks of a bundle are those of here, and its evidence pooled with that of here."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence

import attrs

from crosstask.errors import nearest
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.tasks import Task
from crosstask_bundles.errors import BundleError
from crosstask_bundles.manifest import TransferManifest
from crosstask_bundles.records import BundleUse


@attrs.frozen
class Known:
    """A manifest that was verified, with the digest of it and who signed it."""

    manifest: TransferManifest
    digest: str
    signed_by: str | None = None

    @property
    def label(self) -> str:
        """What its edges are told apart by."""
        return f"bundle {self.manifest.name} {self.digest[:8]}"


@attrs.frozen
class Gathered:
    """A graph with what bundles say of it: `touched` are the pairs that they know."""

    graph: TransferGraph
    uses: tuple[BundleUse, ...]
    touched: frozenset[tuple[str, str]]
    conflicts: tuple[str, ...]


def matched(manifest: TransferManifest, tasks: Iterable[Task], same: Mapping[str, str] | None = None) -> dict[str, str]:
    """The tasks of a manifest that are known here, by id, each with the id that it has here.

    They are the same where their data are (`Task.content`, else `Task.fingerprint`), whatever they are called; of
    several here with the same data, the one of the same id, else none. `same` (id there: id here) settles it. A name
    alone says nothing.
    """
    said, here = dict(same or {}), list(tasks)
    prints: dict[str, list[str]] = {}
    for task in here:
        for key in (task.content(), task.fingerprint() if task.content() is not None else None):
            if key is not None:
                prints.setdefault(key, []).append(task.task_id)
    found = {}
    for told in manifest.tasks:
        name = told.descriptor.task_id
        if name in said:
            found[name] = said[name]
            continue
        for key in (told.content, told.fingerprint):
            ids = [each for each in prints.get(key or "", ()) if each not in said.values()]
            if name in ids or len(ids) == 1:
                found[name] = name if name in ids else ids[0]
                break
    taken = list(found.values())
    return {there: here for there, here in found.items() if taken.count(here) == 1 or there in said}


def check_same(same: Mapping[str, str], manifests: Iterable[TransferManifest], tasks: Iterable[Task]) -> None:
    """BundleError for a task that nobody knows, or two that would be one."""
    there = {task.descriptor.task_id for manifest in manifests for task in manifest.tasks}
    here = {task.task_id for task in tasks}
    for theirs, ours in same.items():
        if theirs not in there:
            raise BundleError(f"same: no task {theirs!r} in the bundles{nearest(theirs, there)}")
        if ours not in here:
            raise BundleError(f"same: no task {ours!r} here{nearest(ours, here)}")
    for ours in same.values():
        both = [theirs for theirs, other in same.items() if other == ours]
        for manifest in manifests:
            own = [t.descriptor.task_id for t in manifest.tasks if t.descriptor.task_id in both]
            if len(own) > 1:
                raise BundleError(f"same: {own[0]!r} and {own[1]!r} of one bundle would both be {ours!r}")


def gather(
    graph: TransferGraph, bundles: Sequence[Known], tasks: Sequence[Task], same: Mapping[str, str] | None = None
) -> Gathered:
    """A graph, and what bundles say of its tasks: measurements of one pair pooled by their uncertainty, each once
    (`TransferGraph.merge`). Every edge keeps its evidence, its run and its date; who found it is told with the bundle.
    """
    said = dict(same or {})
    check_same(said, [known.manifest for known in bundles], tasks)
    ids = {task.task_id for task in tasks}
    uses, conflicts = [], dict[str, None]()
    touched: set[tuple[str, str]] = set()
    for known in bundles:
        called = {a: b for a, b in matched(known.manifest, tasks, said).items() if b in ids}
        edges = _renamed(known, called)
        theirs = TransferGraph(graph.task(name) for name in called.values())
        for edge in edges:
            theirs.add(edge)
        merged = graph.merge(theirs, same={name: name for name in called.values()})
        graph = merged.graph
        pairs = {(edge.source, edge.target) for edge in edges}
        touched |= pairs
        conflicts |= {str(each): None for each in merged.conflicts if (each.source, each.target) in pairs}
        uses.append(_use(known, called, edges))
    return Gathered(graph, tuple(uses), frozenset(touched), tuple(conflicts))


def _renamed(known: Known, called: Mapping[str, str]) -> list[TransferEdge]:
    """The edges between tasks that are known here, under the names that these have here."""
    when = _time(known.manifest.created)

    def told(edge: TransferEdge) -> TransferEdge:
        return attrs.evolve(
            edge,
            source=called[edge.source],
            target=called[edge.target],
            found_by=f"{edge.found_by or 'unknown'} ({known.label})",
            origin=edge.origin or known.manifest.origin.run_id,
            when=edge.when or when,
            measurements=tuple(map(told, edge.measurements)),
        )

    return [told(edge) for edge in known.manifest.edges if edge.source in called and edge.target in called]


def _time(text: str) -> datetime.datetime | None:
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return when if when.tzinfo is not None else None


def _use(known: Known, called: Mapping[str, str], edges: Sequence[TransferEdge]) -> BundleUse:
    manifest = known.manifest
    kinds = [edge.evidence.value for edge in edges]
    return BundleUse(
        name=manifest.name,
        digest=known.digest,
        licence=manifest.licence,
        run_id=manifest.origin.run_id,
        made_by=manifest.origin.made_by,
        created=manifest.created,
        signed_by=known.signed_by,
        matched=dict(called),
        edges={kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        left_out=len(manifest.edges) - len(edges),
    )
