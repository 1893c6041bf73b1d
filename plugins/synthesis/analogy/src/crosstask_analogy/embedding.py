"""Tasks as vectors, in which a task that differs from C as B differs from A lies at C + B - A."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.graph import TransferGraph

Vectors = NDArray[np.float64]


@attrs.frozen
class Analogy:
    """a is to b as c is to the new task. `distance`: of c + b - a from the new task; `nearest`: of the nearest single
    task, which an analogy must beat to be worth anything. Both without the names that only one task has: these tell
    tasks apart, but not how they relate.
    """

    a: str
    b: str
    c: str
    distance: float
    nearest: float


def embed(tasks: Sequence[TaskDescriptor], graph: TransferGraph | None = None) -> Vectors:
    """[tasks, features]. The learned embeddings, where every descriptor has one of the same length; else what the
    descriptors say: domain (each step of its path), classes, skills, knowledge, type, each as indicators scaled so that
    every kind counts the same; with a graph also the coefficients to the other tasks, where all are known. DataError
    where none of it tells any two tasks apart.
    """
    learned = [t.embedding for t in tasks]
    if all(e is not None for e in learned) and len({len(e or ()) for e in learned}) == 1:
        return np.array(learned, dtype=float)
    kinds: list[Callable[[TaskDescriptor], Iterable[str]]] = [
        lambda t: ["/".join(t.domain.split("/")[: n + 1]) for n in range(t.domain.count("/") + 1)],
        lambda t: t.classes,
        lambda t: t.required_skills,
        lambda t: t.domain_knowledge,
        lambda t: [t.task_type],
    ]
    parts = [_indicators([set(kind(t)) for t in tasks]) for kind in kinds]
    if graph is not None:
        parts.append(_profiles(tasks, graph))
    if not (told := [p for p in parts if p.shape[1]]):
        names = [t.task_id for t in tasks]
        shown = ", ".join(map(repr, names[:8])) + (", …" if len(names) > 8 else "")
        known = "there is no graph" if graph is None else "the graph knows of no task how much each other one helps it"
        raise DataError(
            f"nothing tells the tasks {shown} apart: their domain, classes, required_skills, domain_knowledge and "
            f"task_type are the same, not all have an embedding of one length, and {known}; say in their descriptors "
            "how they differ, or name the three tasks of the analogy"
        )
    return np.concatenate(told, axis=1)


def _indicators(sets: Sequence[set[str]]) -> Vectors:
    """One column per name that not all have, scaled by the mean size of the sets."""
    names = sorted(set[str]().union(*sets) - sets[0].intersection(*sets))
    found = np.array([[float(n in s) for n in names] for s in sets]).reshape(len(sets), len(names))
    return found / max(1.0, float(found.sum(axis=1).mean())) ** 0.5


def _profiles(tasks: Sequence[TaskDescriptor], graph: TransferGraph) -> Vectors:
    """Coefficients from every task to every task that all have one to; none are left if the graph knows too little."""
    names = [t.task_id for t in tasks]
    columns = []
    for target in tasks:
        given = {s: _coefficient(graph, s, target.task_id) for s in names if s != target.task_id}
        values = [value for value in given.values() if value is not None]
        if len(values) == len(given):  # a task helps itself as much as the best of the others does
            columns.append([given.get(t.task_id, max(values, default=0.0)) for t in tasks])
    found = np.array(columns).T.reshape(len(tasks), len(columns))
    return found / max(1, len(columns)) ** 0.5


def _coefficient(graph: TransferGraph, source: str, target: str) -> float | None:
    edge = graph.edge(source, target) if source in graph and target in graph else None
    return None if edge is None else edge.transfer_coefficient


def best_analogies(
    new_task: TaskDescriptor, tasks: Sequence[TaskDescriptor], graph: TransferGraph | None = None, count: int = 20
) -> list[Analogy]:
    """The analogies whose c + b - a lies nearest to the new task, best first: O(n³) sums for n tasks.

    b and c are exchangeable in the sum; of the two orders the one is given in which c is nearer to the new task.
    """
    points = embed([*tasks, new_task], graph)
    shared = (points != 0).sum(0) > 1
    here, points = points[-1], points[:-1]
    alone = ((points - here) ** 2).sum(1)
    found = []
    for b in range(len(tasks)):
        for c in range(b):
            apart = ((points - (points[b] + points[c] - here)) ** 2).sum(1)
            apart[[b, c]] = np.inf
            for a in np.argsort(apart, kind="stable")[:3]:
                if np.isfinite(apart[a]):
                    far, near = (b, c) if alone[c] <= alone[b] else (c, b)
                    found.append((float(apart[a]), int(a), far, near))
    points, here = points[:, shared], here[shared]
    nearest = float(((points - here) ** 2).sum(1).min()) ** 0.5
    made = []
    for _, a, b, c in sorted(found)[:count]:
        distance = float(np.linalg.norm(points[c] + points[b] - points[a] - here))
        made.append(Analogy(tasks[a].task_id, tasks[b].task_id, tasks[c].task_id, distance, nearest))
    return made
