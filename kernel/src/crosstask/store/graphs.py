"""The transfer graphs of many runs in one store, and as one graph. Only what was measured is kept: the rest is soon
made again, and better with more measurements.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from crosstask.errors import GraphError, StoreError
from crosstask.graph import Merged, TransferGraph
from crosstask.points.store import Store

KIND = "graphs"


def keep_graph(store: Store, graph: TransferGraph, run_id: str, when: datetime | None = None) -> None:
    """Keep what was measured in a run, with its date (now, where edges have none of their own). What was kept of the
    same run before stays.
    """
    found = graph.of_measured()
    if not found.measured_edges():
        return
    found = found.dated(datetime.now(UTC) if when is None else when, run_id)
    known = store.get(KIND, run_id)
    if known is not None:
        found = _same_run(_read(known.payload, run_id), found)
    store.put(KIND, run_id, found.to_json(), run_id=run_id, replace=True)


def kept_graph(store: Store) -> Merged:
    """The graphs of all runs of a store as one, with what was measured of each pair pooled (`TransferGraph.merge`).

    Tasks are known by their data. One whose id another task has already is called `id (begin of its fingerprint)`.
    """
    whole = Merged(TransferGraph(), [])
    called: dict[str, list[str]] = {}  # by what the data are: what tasks of them are called
    taken: set[str] = set()
    for run_id, payload in store.entries(KIND):
        graph = _read(payload, run_id)
        prints = {task: graph.fingerprint(task) or task for task in graph.task_ids}
        names: dict[str, str] = {}
        # one run may have the same data under two ids: they stay apart, each with its namesake where there is one
        for task in sorted(prints, key=lambda each: each not in called.get(prints[each], ())):
            known = called.setdefault(prints[task], [])
            free = [each for each in known if each not in names.values()]
            name, number = task if task in free or not free else free[0], 0
            while not free and name in taken:
                number += 1
                name = _told_apart(task, prints[task], number)
            if not free:
                known.append(name)
                taken.add(name)
            names[task] = name
        whole = _joined(whole.graph, graph.renamed(names))
    return whole


def join_rows(ours: Any, theirs: Any, run_id: str) -> Any:
    """Two rows of one run as one: what either knows."""
    return _same_run(_read(ours, run_id), _read(theirs, run_id)).to_json()


def _same_run(one: TransferGraph, two: TransferGraph) -> TransferGraph:
    """What was kept of a run, and what it has measured since. Who takes a run's name again for other data finds tasks
    of the same ids: where both say what their data are, and these differ, they stay apart.
    """
    names: dict[str, str] = {}
    for task in two.task_ids:
        print_ = two.fingerprint(task)
        known = one.fingerprint(task) if task in one.task_ids else None
        name, number = task, 0
        while name in one.task_ids and None not in (print_, known) and one.fingerprint(name) != print_:
            number += 1
            name = _told_apart(task, print_ or "", number)
        names[task] = name
    return _joined(one, two.renamed(names)).graph


def _told_apart(task: str, print_: str, number: int) -> str:
    """What a task is called whose id another has already."""
    return f"{task} ({print_[:6]}{f', {number}' if number > 1 else ''})"


def _joined(one: TransferGraph, two: TransferGraph) -> Merged:
    """Merged by the ids, which are known to mean the same."""
    return one.merge(two, same={task: task for task in two.task_ids if task in one.task_ids})


def _read(payload: Any, run_id: str) -> TransferGraph:
    try:
        return TransferGraph.from_json(payload)
    except GraphError as error:
        raise StoreError(f"the stored graph of run {run_id!r} cannot be read: {error}") from None
