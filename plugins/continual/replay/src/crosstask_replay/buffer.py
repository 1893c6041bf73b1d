"""Which samples a memory of fixed size keeps of a stream, and how it draws from them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crosstask_continual import Batch

POLICIES = ("reservoir", "balanced", "prioritised")

Columns = dict[str, Tensor]


def reservoir(seen: int, size: int, count: int, generator: torch.Generator) -> list[int]:
    """For `count` samples after `seen` others the place that each takes in a memory of `size`, or -1 (Vitter 1985).

    Every sample of the stream is equally likely to be in memory at its end.
    """
    order = torch.arange(seen, seen + count, dtype=torch.float64)
    drawn = (torch.rand(count, generator=generator, dtype=torch.float64) * (order + 1)).long().tolist()
    return [seen + k if seen + k < size else (place if place < size else -1) for k, place in enumerate(drawn)]


def balanced(labels: list[int], new: list[int], size: int, counts: dict[int, int], rng: torch.Generator) -> list[int]:
    """The same with as many samples of every class (Chrysakis and Moens 2020, algorithm 1).

    `labels`: the class at each place of the memory, changed here; `counts`: how many of each class have come.
    """
    chances = torch.rand(len(new), 2, generator=rng, dtype=torch.float64).tolist()
    held: dict[int, list[int]] = {}
    for place, label in enumerate(labels):
        held.setdefault(label, []).append(place)
    places = []
    for label, (first, second) in zip(new, chances, strict=True):
        counts[label] = counts.get(label, 0) + 1
        own = held.setdefault(label, [])
        if len(labels) < size:
            places.append(len(labels))
            own.append(len(labels))
            labels.append(label)
            continue
        largest = max(held, key=lambda k: len(held[k]))
        if len(own) == len(held[largest]):  # among the largest: a reservoir of its own
            places.append(own[int(second * len(own))] if first * counts[label] < len(own) else -1)
            continue
        others = held[largest]
        place = others.pop(int(second * len(others)))
        own.append(place)
        labels[place] = label
        places.append(place)
    return places


def inserted(columns: Columns, new: Columns, places: list[int]) -> None:
    """Write rows of `new` into places of `columns`, in place; later rows win. Places beyond the end are appended."""
    last = {place: row for row, place in enumerate(places) if place >= 0}
    if not last:
        return
    for name, values in new.items():
        known = columns.get(name)
        if known is None:
            known = values.new_zeros(0, *values.shape[1:])
        if known.shape[1:] != values.shape[1:]:  # outputs: a head has grown since
            known, values = _alike(known, values)
        if (grown := max(last) + 1 - len(known)) > 0:
            known = torch.cat([known, known.new_zeros(grown, *known.shape[1:])])
        rows = torch.tensor(list(last.values()), device=values.device)
        known[torch.tensor(list(last), device=known.device)] = values[rows].to(known)
        columns[name] = known


def _alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    width = max(a.shape[1], b.shape[1])
    wider = [torch.cat([t, t.new_full((len(t), width - t.shape[1]), float("nan"))], dim=1) for t in (a, b)]
    return wider[0], wider[1]


def columns_of(batch: Batch, **more: Tensor) -> Columns:
    """The samples of a batch as columns of a memory."""
    return {"inputs": batch.inputs, "targets": batch.targets, "task_ids": batch.task_ids, **more}


def batch_from(columns: Columns, rows: Tensor) -> Batch:
    """Samples of a memory as a batch."""
    rows = rows.to(columns["targets"].device)
    return Batch(columns["inputs"][rows], columns["targets"][rows], columns["task_ids"][rows])


def draw(count: int, held: int, generator: torch.Generator, weights: Tensor | None = None) -> Tensor:
    """`count` of `held` rows (all, if there are no more), without repeats; `weights` [held] are their chances."""
    if weights is not None:
        return torch.multinomial(weights.cpu(), min(count, held), generator=generator)
    return torch.randperm(held, generator=generator)[:count]


def size_of(columns: dict[str, Any]) -> int:
    """How many samples a memory holds."""
    return len(columns["targets"]) if columns else 0
