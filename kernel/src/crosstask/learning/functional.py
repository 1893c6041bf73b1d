"""A module computed with other tensors in the places of its parameters, and left exactly as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.learning.modules import forward

Places = dict[int, list[tuple[dict[str, Any], str]]]
"""Where each tensor of a module stands, by its id: in which modules' tables, under which names."""


def places_of(module: nn.Module) -> Places:
    """Every place of every parameter and buffer, once each, however many names lead there."""
    found: Places = {}
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    found.setdefault(id(tensor), []).append((table, name))
    return found


@contextlib.contextmanager
def swapped(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, `module` has these tensors for the parameters of these names; outside it has its own again.

    A parameter that stands in several places (a layer used twice, tied weights) is exchanged in all of them, once.
    `torch.func.functional_call` exchanges a layer with two names twice and then puts the wrong tensors back.
    """
    own = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    places = places_of(module)
    before: list[tuple[dict[str, Any], str, Tensor]] = []
    try:
        for name, tensor in tensors.items():
            for table, local in places[id(own[name])]:
                before.append((table, local, table[local]))
                table[local] = tensor
        yield
    finally:
        for table, local, tensor in reversed(before):
            table[local] = tensor


def call(module: nn.Module, tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """The module's logits (`forward`) with these tensors for its own, also where a layer is used twice."""
    with swapped(module, tensors):
        return forward(module, inputs)


def as_taken(module: nn.Module, inputs: Tensor) -> Tensor:
    """Inputs as `forward` gives them to a module: whole numbers stay whole only where it has embeddings."""
    if inputs.is_floating_point() or inputs.is_complex():
        return inputs
    if any(isinstance(part, nn.Embedding | nn.EmbeddingBag) for part in module.modules()):
        return inputs
    kinds = (p.dtype for p in module.parameters() if p.is_floating_point())
    return inputs.to(next(kinds, torch.get_default_dtype()))


@contextlib.contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """Inside, a forward pass may change buffers; outside they are the same tensors with the same values again."""
    before = [
        (part._buffers, name, buffer, buffer.detach().clone())
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for table, name, buffer, values in before:
                table[name] = buffer
                if not torch.equal(buffer, values):
                    buffer.copy_(values)
