"""Points that did well on related tasks: what a search for a task's network tries first."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import attrs

from crosstask.components import Context
from crosstask.graph import TransferGraph
from crosstask.learning.transferring import key_of
from crosstask.options import structure
from crosstask_search.models import ModelSpace
from crosstask_search.records import SearchResult, WarmStart


def _found_key(task_id: str, models: ModelSpace, number: int) -> str:
    return key_of("searched", task_id, models, number)


def remember_search(context: Context, models: ModelSpace, result: SearchResult) -> None:
    """Remember a search's result for warm starts, after those of earlier searches for the same task."""
    assert result.task_id is not None
    for number in itertools.count():
        key = _found_key(result.task_id, models, number)
        known = context.recall("trials", key)
        if known is None:
            context.remember("trials", key, result)
            return
        if known.payload["seed"] == result.seed and known.payload["search"] == result.search:
            return


def warm_starts_for(
    context: Context,
    graph: TransferGraph,
    task_id: str,
    models: ModelSpace,
    count: int = 3,
    results: Mapping[str, Sequence[SearchResult]] | None = None,
) -> list[WarmStart]:
    """The `count` most promising points from searches for related tasks, best first.

    A source's points are ranked by their values there, from 1 for its best to 0 for its worst; a point counts, over
    the sources that help `task_id` (transfer coefficient above 0), the sum of coefficient times rank. `results` are
    searches by task; by default those that `run_model_search` remembered for the same `models`.
    """
    weights: dict[str, WarmStart] = {}
    for edge in graph.best_sources(task_id):
        if results is not None:
            found = list(results.get(edge.source, ()))
        else:
            found = _searches(context, edge.source, models)
        done = [t for r in found for t in r.trials if t.value is not None]
        values = {key_of(t.point): t for t in sorted(done, key=lambda t: t.value or 0.0)}
        for rank, (key, trial) in enumerate(values.items()):
            worth = edge.transfer_coefficient * (rank / (len(values) - 1) if len(values) > 1 else 1.0)
            known = weights.get(key)
            if known is None:
                weights[key] = WarmStart(point=trial.point, source=edge.source, weight=worth)
            else:
                weights[key] = attrs.evolve(known, weight=known.weight + worth)
    return sorted(weights.values(), key=lambda w: -w.weight)[:count]


def _searches(context: Context, task_id: str, models: ModelSpace) -> list[SearchResult]:
    found: list[SearchResult] = []
    for number in itertools.count():
        known = context.recall("trials", _found_key(task_id, models, number), claim=False)
        if known is None:
            return found
        found.append(structure(known.payload, SearchResult, "stored search"))
    raise AssertionError("not reached")
