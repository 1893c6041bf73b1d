"""A `state_dict` in one safetensors file: tensors as they are, everything around them as JSON. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crosstask.errors import StoreError
from crosstask.writing import atomic


def save_state(path: str | Path, state: dict[str, Any]) -> None:
    """Write nested dicts, lists and tuples of tensors, numbers, strings, booleans and None; whole or not at all."""
    target, tensors = Path(path), dict[str, Tensor]()
    text = json.dumps(pack(state, "state", tensors), allow_nan=True)
    with atomic(target, "checkpoint", needed=len(text) + sum(tensor.nbytes for tensor in tensors.values())) as part:
        save_file(tensors, part, metadata={"state": text})


def load_state(path: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """What `save_state` wrote. StoreError if the file is missing or is no checkpoint."""
    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            text = (file.metadata() or {}).get("state")
            if text is None:
                raise StoreError(f"{path} is a safetensors file but no checkpoint")
            made: dict[str, Any] = unpack(json.loads(text), file.get_tensor)
            return made
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"cannot read checkpoint {path}: {error}") from None


def pack(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON; its tensors go into `tensors` under numbers. StoreError names what cannot be kept."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().contiguous().clone()  # safetensors refuses tensors that share memory
        return ["tensor", name]
    if isinstance(value, dict):
        # Keys need not be strings: those of an optimiser's state are numbers.
        return ["dict", [[pack(k, where, tensors), pack(v, f"{where}[{k!r}]", tensors)] for k, v in value.items()]]
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, [pack(v, f"{where}[{i}]", tensors) for i, v in enumerate(value)]]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise StoreError(f"a checkpoint cannot hold {where}: it is a {type(value).__name__}")


def unpack(value: Any, tensor: Callable[[str], Tensor]) -> Any:
    """What `pack` packed; `tensor` gives a tensor by its number."""
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "tensor":
        return tensor(content)
    if kind == "dict":
        return {unpack(k, tensor): unpack(v, tensor) for k, v in content}
    items = [unpack(v, tensor) for v in content]
    return items if kind == "list" else tuple(items)
