"""The `ties` synthesizer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from crosstask.options import component, option
from crosstask_merging.merger import Ingredients, Merger


@component
class TIES(Merger):
    """Trim, elect signs, disjoint mean (Yadav et al. 2023, algorithm 1).

    Of each task vector the `density` largest entries by magnitude, over the whole model, are kept. Each weight's sign
    is that of the larger total; the merged entry is the mean of those kept entries that have it. Then
    base + strength * that.
    """

    density: float = option(0.2, gt=0, le=1, help="share of each task vector's entries that is kept")
    strength: float = option(1.0, help="factor of the merged task vector")

    def prepare(self, given: Ingredients) -> list[float]:
        """Each model's smallest magnitude that is kept."""
        if self.density == 1:
            return [0.0] * len(given.models)
        names = given.learned()
        index = given.models[0].index
        total = sum(math.prod(index[name].shape) * (2 if index[name].dtype.is_complex else 1) for name in names)

        def rows() -> Iterable[Iterable[Tensor]]:
            return (given.vectors(name) for name in names)

        return smallest_kept(rows, len(given.models), max(1, round(self.density * total)))

    def tensor(self, name: str, given: Ingredients, prepared: Any) -> Tensor:
        merged = ties(given.vectors(name), given.weights, prepared)
        return given.start(name).add_(merged, alpha=self.strength)


def ties(vectors: Iterable[Tensor], weights: Sequence[float], thresholds: Sequence[float]) -> Tensor:
    """The disjoint mean of trimmed task vectors, one vector at a time: totals and weights of either sign."""
    rest = iter(vectors)
    vector = next(rest)
    up, down, up_weight, down_weight = (torch.zeros_like(vector) for _ in range(4))
    for part, weight, threshold in zip(itertools.chain([vector], rest), weights, thresholds, strict=True):
        kept = torch.where(part.abs().float() >= threshold, part, 0)  # in the precision of the threshold
        up.add_(kept.clamp(min=0), alpha=weight)
        down.add_(kept.clamp(max=0), alpha=weight)
        up_weight.add_(kept > 0, alpha=weight)
        down_weight.add_(kept < 0, alpha=weight)
    total = up + down
    chosen = torch.where(total > 0, up, down)
    share = torch.where(total > 0, up_weight, down_weight)
    return torch.where(total == 0, 0, chosen / share.clamp_min(torch.finfo(chosen.dtype).tiny))


def smallest_kept(rows: Callable[[], Iterable[Iterable[Tensor]]], count: int, keep: int) -> list[float]:
    """For each of `count` vectors the `keep`-th largest magnitude. `rows` are the parts of all vectors, part by part;
    they are read twice and are never in memory together.

    Exact in single precision: as integers, the bits of positive floats are in the order of their values. The first
    reading counts the upper halves of the bits, the second, of those with the right upper half, the lower ones.
    """
    table = torch.zeros(count, 1 << 16, dtype=torch.long)
    for row in rows():
        for number, part in enumerate(row):
            table[number] += torch.bincount(_bits(part) >> 16, minlength=1 << 16)
    high = [_place(counts, keep) for counts in table]
    rest = [keep - int(counts[place + 1 :].sum()) for counts, place in zip(table, high, strict=True)]
    table.zero_()  # not a second one: half a megabyte for each model is all that grows with their number
    for row in rows():
        for number, part in enumerate(row):
            bits = _bits(part)
            table[number] += torch.bincount(bits[bits >> 16 == high[number]] & 0xFFFF, minlength=1 << 16)
    found = [h << 16 | _place(counts, k) for h, counts, k in zip(high, table, rest, strict=True)]
    return torch.tensor(found, dtype=torch.int32).view(torch.float32).tolist()


def _place(counts: Tensor, keep: int) -> int:
    """The highest place at or above which at least `keep` are."""
    return int((counts.flip(0).cumsum(0).flip(0) >= keep).nonzero().max())


def _bits(part: Tensor) -> Tensor:
    return part.detach().abs().to(device="cpu", dtype=torch.float32).flatten().view(torch.int32)
