"""The layer that makes a network's outputs: which it is, and how it gets more of them.

A layer whose weights are all learned gets more rows. One that is frozen, adapted, tied or re-parametrised stays as it
is, bit for bit, and plain layers beside it answer for the new outputs.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from crosstask.errors import DataError
from crosstask.learning.modules import seeded
from crosstask.learning.rows import CONVOLUTIONS, GROWN, append_rows, layer_like, outputs_in, rows_of

ADAPTERS = "_adapters"
"""Under this name adapters stand in the layer that they adapt: none of them makes the network's outputs."""


def output_layer(network: nn.Module) -> tuple[str, Any]:
    """Name and module of the layer that makes the outputs: the last linear one (else the last convolution) of the
    module called `head`, or of the network if there is none. DataError if there is no such layer.

    A network that does nothing but hold another (under adapters, say) is looked through.
    """
    inside = _head(network)
    for kinds in ((nn.Linear,), CONVOLUTIONS):
        found = [(n, m) for n, m in network.get_submodule(inside).named_modules() if isinstance(m, kinds)]
        for name, layer in reversed(found):
            if not {ADAPTERS, GROWN} & set(name.split(".")):
                return ".".join(part for part in (inside, name) if part), layer
    what = type(network).__name__
    if inside:
        raise DataError(
            f"the head {inside!r} of {what} has neither a linear nor a convolution layer: its outputs are unknown"
        )
    raise DataError(f"{what} has no module named 'head' and no linear layer: its head cannot be found")


def _head(network: nn.Module) -> str:
    """Name of the module called `head`; empty if there is none."""
    path: list[str] = []
    while "head" not in network._modules:
        inner = [(name, child) for name, child in network.named_children() if name != ADAPTERS]
        if len(inner) != 1:
            return ""
        path.append(inner[0][0])
        network = inner[0][1]
    return ".".join((*path, "head"))


def outputs_of(network: nn.Module) -> int:
    """How many outputs a network's last layer makes, those gained later among them."""
    layer = output_layer(network)[1]
    return outputs_in(layer) + sum(outputs_in(more) for more in rows_of(layer))


def resize_head(network: nn.Module, outputs: int, seed: int) -> None:
    """As many outputs: rows that remain stay as they are, new ones are drawn from `seed` and learned.

    A head that is frozen, adapted, re-parametrised, or whose weight another layer shares answers for its own outputs
    as before, bit for bit; they cannot become fewer. DataError where that, or the kind of layer, does not allow it.
    """
    name, layer = output_layer(network)
    has = outputs_of(network)
    if has == outputs:
        return
    where = f"the head {name!r} of {type(network).__name__}" if name else f"a {type(network).__name__}"
    if getattr(layer, "groups", 1) != 1:
        raise DataError(f"{where} is a convolution in {layer.groups} groups: it cannot have {outputs} outputs")
    if _is_plain(network, layer):
        _refit(layer, outputs, seed)
        return
    if outputs < has:
        raise DataError(f"{where} is frozen or adapted: its {has} outputs cannot become {outputs}")
    drawn = _drawn(layer, outputs, seed)
    _cut(drawn, slice(has, None))
    append_rows(layer, drawn)


def _is_plain(network: nn.Module, layer: Any) -> bool:
    """Whether the rows of a layer are its own, and all learned: then it may get more of them."""
    own = {name: p for name, p in layer._parameters.items() if p is not None}
    if layer._modules or layer._forward_pre_hooks or not {"weight"} <= set(own) <= {"weight", "bias"}:
        return False
    if not all(p.requires_grad for p in own.values()):
        return False
    shared = (p for m in network.modules() if m is not layer for p in m._parameters.values())
    return not {id(p) for p in shared} & {id(p) for p in own.values()}


def _drawn(layer: Any, outputs: int, seed: int) -> Any:
    with seeded(seed):
        return layer_like(layer, outputs)


@torch.no_grad()
def _refit(layer: Any, outputs: int, seed: int) -> None:
    """More or fewer rows for a plain layer, which keeps its place; its Parameters are new, as their shapes are."""
    has, drawn = outputs_in(layer), _drawn(layer, outputs, seed)
    for name in ("weight", "bias"):
        old, new = layer._parameters.get(name), drawn._parameters[name]
        if old is not None:
            new[: min(has, outputs)] = old[: min(has, outputs)]
            layer._parameters[name] = new
    _count(layer, outputs)


@torch.no_grad()
def _cut(layer: Any, rows: slice) -> None:
    for name, p in layer._parameters.items():
        if p is not None:
            layer._parameters[name] = nn.Parameter(p[rows].clone())
    _count(layer, len(layer.weight))


def _count(layer: Any, outputs: int) -> None:
    setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", outputs)


class Snapshot:
    """A network as it is now, structure and weights: `restore` puts it back in place, whatever was done to it since."""

    def __init__(self, network: nn.Module) -> None:
        self.modules = [(module, _held(module)) for module in network.modules()]
        tensors = itertools.chain(network.parameters(), network.buffers())
        self.tensors = [(tensor, tensor.detach().clone(), tensor.requires_grad) for tensor in tensors]

    @torch.no_grad()
    def restore(self) -> None:
        """Modules, hooks, weights, flags and modes are what they were."""
        for module, held in self.modules:
            module.__dict__.clear()
            module.__dict__.update(held)
        for tensor, value, needs in self.tensors:
            tensor.copy_(value)
            tensor.requires_grad_(needs)
            tensor.grad = None


def _held(module: nn.Module) -> dict[str, Any]:
    return {name: value.copy() if isinstance(value, dict) else value for name, value in module.__dict__.items()}
