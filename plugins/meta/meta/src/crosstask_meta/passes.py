"""The passes that a batch of episodes is worked in, and what came of them put in the order of the episodes again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from crosstask.learning.batched import Batched
from crosstask.learning.episodes import Episodes


def passes(
    net: Batched, names: Collection[str], episodes: Episodes, size: int | None, first_order: bool
) -> Iterator[tuple[Tensor, Episodes]]:
    """(numbers of the episodes, they themselves), as many at once as `size` says, or as pay.

    Episodes of unequal sizes stay padded where each layer of the module treats each sample by itself; elsewhere
    (batch normalisation, code of one's own) those of equal size go together, without padding.
    """
    every = torch.arange(len(episodes), device=episodes.support_targets.device)
    for rows, part in [(every, episodes)] if net.separate else episodes.equal():
        at_once = size or net.tasks_at_once(names, part.support_inputs, first_order)
        yield from zip(torch.split(rows, at_once), part.split(at_once), strict=True)


def in_order(rows: Sequence[Tensor], parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """What each pass gave for its episodes, along `dim`, in the order of the episodes."""
    return torch.cat(list(parts), dim).index_select(dim, torch.cat(list(rows)).argsort())


def answers(rows: Sequence[Tensor], parts: Sequence[tuple[Tensor, Episodes]], episodes: Episodes) -> Tensor:
    """Outputs [B, Q, …] of the queries of all episodes from those of each pass; 0 where there is padding."""
    shape, first = episodes.query_targets.shape[:2], parts[0][0]
    found = first.new_zeros(*shape, *first.shape[2:])
    mask = episodes.query_mask
    real = torch.ones(shape, dtype=torch.bool, device=found.device) if mask is None else mask
    for own, (outputs, part) in zip(rows, parts, strict=True):
        places = torch.zeros_like(real)
        places[own] = real[own]
        found[places] = outputs.flatten(0, 1) if part.query_mask is None else outputs[part.query_mask]
    return found
