"""Inputs of several tasks side by side, whether a sample has one tensor or several."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import cast

import torch
from torch import Tensor

from crosstask.descriptors import MultiInput


def kind_of(inputs: Tensor | MultiInput) -> Hashable:
    """What inputs must have in common to be shown to the same models: names, shapes, and whether they are whole
    numbers (which may be ids of tokens).
    """
    if isinstance(inputs, MultiInput):
        return inputs.named, tuple((name, kind_of(part)) for name, part in inputs.parts.items())
    return tuple(inputs.shape[1:]), inputs.is_floating_point()


def shape_of(inputs: Tensor | MultiInput) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
    """Of one sample, as a descriptor says it: the shape of a single input, of several by name."""
    return inputs.shapes if isinstance(inputs, MultiInput) else tuple(inputs.shape[1:])


def joined(parts: Sequence[Tensor | MultiInput]) -> Tensor | MultiInput:
    """Inputs of one kind (`kind_of`) one after another [N, …], on the device of the first."""
    first = parts[0]
    if isinstance(first, MultiInput):
        several = [cast(MultiInput, part).parts for part in parts]
        device = first.device
        made = {name: torch.cat([part[name].to(device) for part in several]) for name in first.parts}
        return MultiInput(made, named=first.named)
    return torch.cat([cast(Tensor, part).to(first.device) for part in parts])
