"""What of a network is shared between sites, under which names, and how it is summed and put back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from crosstask.errors import DataError, StoreError
from crosstask.learning.checkpoint import pack, unpack
from crosstask.learning.modules import head_keys

Tensors: TypeAlias = dict[str, Tensor]
"""Tensors by name, `form/what it is`: the form is one of those that a federation says it shares."""

LOCAL = ("batch_norm", "head")
"""Parts of a network that may stay at a site: BatchNorm layers with their statistics, and the head."""


def named(form: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors under the names of a form."""
    return {f"{form}/{name}": tensor for name, tensor in tensors.items()}


def of_form(form: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """Those of a form, without it in their names."""
    return {name.partition("/")[2]: t for name, t in tensors.items() if name.partition("/")[0] == form}


def local_keys(network: nn.Module, local: Sequence[str]) -> frozenset[str]:
    """Names in the network's state of what stays at a site; see `LOCAL`."""
    found = set(head_keys(network)) if "head" in local else set()
    if "batch_norm" in local:
        for path, module in network.named_modules(remove_duplicate=False):
            if isinstance(module, _NormBase):
                found |= {f"{path}.{name}" if path else name for name in module.state_dict()}
    return frozenset(found)


def state_of(network: nn.Module, local: Sequence[str] = ()) -> tuple[Tensors, Tensors]:
    """(what of a network is shared, what stays), copies on the CPU, by the forms `weights` (that are trained) and
    `buffers` (that are saved with it).

    A tensor with several names, as of tied weights, is there once, under the first. Frozen weights are the same
    everywhere and not sent. What modules keep besides tensors (`get_extra_state`) is nothing that has a mean: it stays,
    by the form `extra`. DataError if it is no plain data.
    """
    stays = local_keys(network, local)
    shared: Tensors = {}
    kept: Tensors = {}
    seen: set[int] = set()
    for name, tensor in network.state_dict(keep_vars=True).items():
        if _is_extra(name):
            kept |= _packed(name, tensor, network)
            continue
        if not isinstance(tensor, Tensor) or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        weight = isinstance(tensor, nn.Parameter)
        if weight and not tensor.requires_grad:
            continue
        (kept if name in stays else shared)[f"{'weights' if weight else 'buffers'}/{name}"] = _copied(tensor)
    return shared, kept


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone()


def _is_extra(name: str) -> bool:
    return name.rpartition(".")[2] == "_extra_state"


def _packed(name: str, value: Any, network: nn.Module) -> Tensors:
    """A module's extra state: JSON as bytes, and the tensors in it under their numbers."""
    inside: Tensors = {}
    try:
        text = json.dumps(pack(value, name, inside))
    except StoreError:
        told = f"{name!r} of {type(network).__name__} (get_extra_state) is no plain data"
        raise DataError(f"{told}: a site cannot keep it from round to round") from None
    made = {f"extra/{name}": torch.tensor(list(text.encode()), dtype=torch.uint8)}
    return made | {f"extra/{name}/{number}": _copied(tensor) for number, tensor in inside.items()}


@torch.no_grad()
def put(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Give a network these `weights` and `buffers`, in place, as precise as its own are; whole numbers are rounded; and
    its modules their `extra` state.

    DataError for a name or a shape that it has not.
    """
    own = network.state_dict(keep_vars=True)
    for key, tensor in tensors.items():
        form, _, name = key.partition("/")
        if form == "extra" and _is_extra(name):
            inside = {n.removeprefix(f"{key}/"): t for n, t in tensors.items() if n.startswith(f"{key}/")}
            value = unpack(json.loads(bytes(tensor.tolist())), inside.__getitem__)
            network.get_submodule(name.rpartition(".")[0]).set_extra_state(value)
        if form not in ("weights", "buffers"):
            continue
        if name not in own or own[name].shape != tensor.shape:
            have = f"it is {tuple(own[name].shape)} there" if name in own else "it has none of that name"
            raise DataError(
                f"{name!r} of shape {tuple(tensor.shape)} does not fit {type(network).__name__} at this site: {have}"
            )
        whole = tensor.is_floating_point() and not own[name].is_floating_point()
        own[name].copy_(tensor.round() if whole else tensor)
    return network


def scaled(tensors: Mapping[str, Tensor], weight: float) -> Tensors:
    """Each times a weight, in single precision at least, so that sums of them are means; whole numbers in double."""
    return {name: _wide(tensor) * weight for name, tensor in tensors.items()}


def _wide(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point() and not tensor.is_complex():
        return tensor.double()
    return tensor.float() if tensor.itemsize < 4 else tensor


def sum_of(parts: Sequence[Mapping[str, Tensor]]) -> Tensors:
    """The sum by name, in the order given, so that the same parts give the same bits. DataError for other names."""
    total = {name: tensor.clone() for name, tensor in parts[0].items()}
    for part in parts[1:]:
        if part.keys() != total.keys() or any(part[name].shape != total[name].shape for name in total):
            odd = sorted(part.keys() ^ total.keys()) or [n for n in total if part[n].shape != total[n].shape]
            raise DataError(f"sites answer with other tensors, which cannot be summed: {', '.join(odd[:3])}")
        for name in total:
            total[name] += part[name]
    return total


def like(tensors: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> Tensors:
    """Each of the type that `model` has under its name: means of whole numbers are rounded."""
    made = {}
    for name, tensor in tensors.items():
        kind = model[name].dtype
        made[name] = (tensor if kind.is_floating_point or kind.is_complex else tensor.round()).to(kind)
    return made


def nbytes(tensors: Mapping[str, Tensor]) -> int:
    """What they weigh on the way, without names."""
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())


def unfinished(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of one that holds a number that is not finite."""
    return next((name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())), None)
