"""Drawing batches and samples from data in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from crosstask.descriptors import TensorData


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Index tensors of `size` samples (all, if fewer) without end: each epoch a new order, the rest carried over."""
    size = min(size, count)
    rest = torch.empty(0, dtype=torch.long)
    while True:
        rest = torch.cat([rest, torch.randperm(count, generator=generator)])
        while len(rest) >= size:
            yield rest[:size]
            rest = rest[size:]


def batch_table(count: int, size: int, steps: int, generator: torch.Generator) -> Tensor:
    """The first `steps` of `batches` as a table of indices [steps, size]."""
    size = min(size, count)
    epochs = -(-steps * size // count)
    orders = [torch.randperm(count, generator=generator) for _ in range(epochs)]
    return torch.cat(orders or [torch.empty(0, dtype=torch.long)])[: steps * size].reshape(steps, size)


def draw(data: TensorData, count: int, generator: torch.Generator, *, classes: bool) -> TensorData:
    """`count` of the samples without repeats, in random order (all of them, shuffled, if there are no more).

    With `classes` the targets [N] are labels, and the draw is stratified: it holds every class if `count` allows, and
    each about as often as the data do.
    """
    order = torch.randperm(len(data), generator=generator)
    if classes:
        labels = data.targets[order.to(data.targets.device)].cpu()
        place = torch.empty(len(order), dtype=torch.float64)
        for label in range(int(labels.max()) + 1):
            (own,) = torch.nonzero(labels == label, as_tuple=True)
            place[own] = torch.arange(len(own), dtype=torch.float64) / max(1, len(own))
        # Taken by place: first one of every class, then the others in proportion; ties in random order.
        order = order[torch.argsort(place, stable=True)[:count]]
        order = order[torch.randperm(len(order), generator=generator)]
    return data.take(order[:count])
