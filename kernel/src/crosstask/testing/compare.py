"""Plain, comparable copies of anything a contract passes around, and whether two of them are the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from crosstask.graph import TransferGraph
from crosstask.options import unstructure
from crosstask.tasks import SPLITS, Portfolio, Task


def plain(value: Any) -> Any:
    """A deep copy as nested dicts, lists, tensors and scalars: what a component may not change, or what it answered."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, nn.Module):
        flags = {name: parameter.requires_grad for name, parameter in value.named_parameters()}
        weights = {name: plain(tensor) for name, tensor in value.state_dict().items()}
        return {"weights": weights, "trainable": flags, "training": value.training}
    if isinstance(value, Task):
        splits = {split: plain(value.data(split)) for split in SPLITS if value.has_data(split)}
        return {"descriptor": value.descriptor.to_json(), "data": splits, "model": plain(value.model)}
    if isinstance(value, Portfolio):
        tasks = {t.task_id: plain(t) for t in [*value, *value.unseen]}
        return {"tasks": tasks, "unseen": [t.task_id for t in value.unseen], "focus": value.focus}
    if isinstance(value, TransferGraph):
        return {"tasks": [value.task(t).to_json() for t in value.task_ids], "edges": plain(list(value.all_edges()))}
    if attrs.has(type(value)):
        return {f.name: plain(getattr(value, f.name)) for f in attrs.fields(type(value))}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool | int | float | str | None):
        return value
    return unstructure(value)


def difference(one: Any, other: Any, where: str = "it") -> str | None:
    """Where two plain copies differ, in words; None if they are the same (numbers: nearly so)."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return f"{where}: {one.dtype} {tuple(one.shape)} against {other.dtype} {tuple(other.shape)}"
        if one.is_floating_point() and not torch.allclose(one, other, rtol=1e-6, atol=1e-9, equal_nan=True):
            return f"{where}: values differ by up to {float((one - other).abs().max()):.3g}"
        return None if one.is_floating_point() or torch.equal(one, other) else f"{where}: values differ"
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"{where}: {_few(one.keys() ^ other.keys())} on one side only"
        return next((d for key in one if (d := difference(one[key], other[key], f"{where}[{key!r}]"))), None)
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return f"{where}: {len(one)} items against {len(other)}"
        found = (difference(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(one, other, strict=True)))
        return next((d for d in found if d), None)
    if isinstance(one, float) and isinstance(other, float) and math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9):
        return None
    if type(one) is type(other) and (one == other or (one != one and other != other)):
        return None
    return f"{where}: {str(one)[:80]!r} against {str(other)[:80]!r}"


def _few(keys: set[Any]) -> str:
    names = sorted(map(str, keys))
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
