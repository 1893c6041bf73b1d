"""The model under its adapters: which modules and weights are its own, and how to know it again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from crosstask.errors import DataError
from crosstask_adapters.adapted_layers import AdaptedLayer
from crosstask_adapters.switches import Host


def adapter_parts(model: nn.Module) -> set[int]:
    """Identities of the modules that belong to adapters of a model."""
    layers = [m for m in model.modules() if isinstance(m, AdaptedLayer)]
    return {id(inside) for layer in layers for part in layer._parts for inside in part.modules()} | {
        id(layer._modules["_adapters"]) for layer in layers if "_adapters" in layer._modules
    }


def base_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of everything in a model that belongs to no adapter."""
    inside = adapter_parts(model)
    return ((name, module) for name, module in model.named_modules() if id(module) not in inside)


def base_names(model: nn.Module) -> dict[str, list[str]]:
    """All names of each module that belongs to no adapter, by its first: one that is used twice has two."""
    inside = adapter_parts(model)
    found: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if id(module) not in inside:
            found.setdefault(id(module), []).append(name)
    return {names[0]: names for names in found.values()}


def check_materialised(model: nn.Module) -> None:
    """DataError if a layer of the model is lazy and has no weights yet."""
    for name, module in base_modules(model):
        if any(is_lazy(t) for t in (*module._parameters.values(), *module._buffers.values()) if t is not None):
            raise DataError(
                f"{name!r} is a {type(module).__name__} that has no weights yet: send a batch through the model before "
                "adapters are attached"
            )


def base_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights and buffers of a model as they are without any adapter, merged ones included."""
    check_materialised(model)
    host = model.__dict__.get("_adapter_host", Host())
    found: dict[str, Tensor] = {}
    for name, module in base_modules(model):
        own: dict[str, Any] = {n: p for n, p in module._parameters.items() if p is not None}
        own |= {
            n: b for n, b in module._buffers.items() if b is not None and n not in module._non_persistent_buffers_set
        }
        for key, tensor in own.items():
            value = host.kept[tensor] if isinstance(tensor, nn.Parameter) and tensor in host.kept else tensor
            found[f"{name}.{key}" if name else key] = value.detach()
    return found


def base_digests(base: nn.Module) -> dict[str, str]:
    """Identity of a model without its adapters: of its names and shapes, and of its weights."""
    shapes, weights = hashlib.sha256(), hashlib.sha256()
    for name, tensor in base_state(base).items():
        shapes.update(f"{name}{tuple(tensor.shape)}".encode())
        weights.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        plain = tensor.cpu().contiguous().reshape(-1)
        weights.update(plain.view(torch.uint8).numpy().data if plain.numel() else b"")
    return {"shapes": shapes.hexdigest(), "weights": weights.hexdigest()}


def check_base(base: nn.Module, made_for: Mapping[str, str], where: str) -> None:
    """DataError if the digests are those of another model than `base`."""
    found = base_digests(base)
    if found["shapes"] != made_for["shapes"]:
        raise DataError(f"{where}: made for another base: the names or shapes of its weights are not those of this one")
    if found["weights"] != made_for["weights"]:
        raise DataError(
            f"{where}: made for another base: it has the same layers but other weights (or another dtype) than this one"
        )
