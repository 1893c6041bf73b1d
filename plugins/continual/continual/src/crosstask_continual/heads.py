"""The layer that makes a network's outputs: which it is, and how it gets more of them."""

from __future__ import annotations

import torch
from torch import nn

from crosstask.errors import DataError
from crosstask.learning.modules import head_name, seeded


def last_linear(network: nn.Module) -> tuple[str, nn.Linear]:
    """Name and module of the layer that makes the outputs: the last linear one of the head. DataError if none."""
    inside = head_name(network)
    found = [(n, m) for n, m in network.get_submodule(inside).named_modules() if isinstance(m, nn.Linear)]
    if not found:
        raise DataError(f"the head of {type(network).__name__} has no linear layer: its outputs are unknown")
    name, layer = found[-1]
    return ".".join(part for part in (inside, name) if part), layer


def resize_head(network: nn.Module, outputs: int, seed: int) -> None:
    """As many outputs: rows that remain stay as they are, new ones are drawn from `seed`. DataError without a trunk."""
    name, old = last_linear(network)
    if old.out_features == outputs:
        return
    if not name:
        raise DataError("a model that is only a linear layer has no trunk to keep; wrap it in a module with a 'head'")
    with seeded(seed):
        new = nn.Linear(old.in_features, outputs, bias=old.bias is not None).to(old.weight)
    with torch.no_grad():
        for kept, drawn in zip(old.parameters(), new.parameters(), strict=True):
            rows = min(len(kept), len(drawn))
            drawn[:rows] = kept[:rows]
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, new)
