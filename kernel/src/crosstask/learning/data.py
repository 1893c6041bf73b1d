"""Reading splits into memory, checked, and drawing batches from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crosstask.errors import DataError
from crosstask.tasks import TaskDescriptor, TensorData


def read_split(raw: Any, descriptor: TaskDescriptor, split: str) -> TensorData:
    """`raw` (a pair, a Dataset or a loader factory) as tensors, checked against the descriptor.

    DataError for no samples, other lengths, another input shape, values that are not finite, labels that are no class.
    """
    where = f"task {descriptor.task_id!r}, {split} data"
    try:
        inputs, targets = _tensors(raw)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    if len(inputs) != len(targets):
        raise DataError(f"{where}: {len(inputs)} inputs but {len(targets)} targets")
    if len(inputs) == 0:
        raise DataError(f"{where}: no samples")
    if descriptor.input_shape and tuple(inputs.shape[1:]) != descriptor.input_shape:
        raise DataError(
            f"{where}: inputs have shape {tuple(inputs.shape[1:])}, the descriptor says {descriptor.input_shape}"
        )
    for name, tensor in (("inputs", inputs), ("targets", targets)):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            row = int((~torch.isfinite(tensor.reshape(len(tensor), -1)).all(1)).nonzero()[0])
            raise DataError(f"{where}: {name} hold NaN or infinite values (first in sample {row})")
    if descriptor.task_type == "classification":
        targets = _labels(targets, descriptor, where)
    elif targets.is_floating_point():
        targets = targets.to(torch.get_default_dtype())
    if inputs.is_floating_point():
        inputs = inputs.to(torch.get_default_dtype())
    return TensorData(inputs, targets)


def _labels(targets: Tensor, descriptor: TaskDescriptor, where: str) -> Tensor:
    if targets.is_floating_point() and not bool((targets == targets.round()).all()):
        raise DataError(f"{where}: classification labels must be integers")
    labels = targets.reshape(len(targets), -1)
    if labels.shape[1] != 1:
        raise DataError(f"{where}: one label per sample is needed, got shape {tuple(targets.shape)}")
    labels = labels[:, 0].long()
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (descriptor.output_dim is not None and high >= descriptor.output_dim):
        classes = f"0 to {descriptor.output_dim - 1}" if descriptor.output_dim else "0 and up"
        raise DataError(f"{where}: labels run from {low} to {high}, the classes are {classes}")
    return labels


def _tensors(raw: Any) -> tuple[Tensor, Tensor]:
    if isinstance(raw, TensorData):
        return raw.inputs, raw.targets
    if isinstance(raw, tuple | list) and len(raw) == 2:
        return _tensor(raw[0]), _tensor(raw[1])
    if callable(raw) and (isinstance(raw, type) or not hasattr(raw, "__getitem__")):
        pairs = [(_tensor(x), _tensor(y)) for x, y in raw()]
    elif hasattr(raw, "__getitem__") and hasattr(raw, "__len__"):
        pairs = [
            (_tensor(x)[None], _tensor(y).reshape(1, *_tensor(y).shape)) for x, y in (raw[i] for i in range(len(raw)))
        ]
    else:
        raise DataError(
            f"expected (inputs, targets), a Dataset or a function returning batches, got {type(raw).__name__}"
        )
    if not pairs:
        raise DataError("no samples")
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    try:
        return torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError) as error:
        raise DataError(f"cannot be made a tensor: {error}") from None


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Index tensors of `size` samples (all, if fewer) without end: each epoch a new order, the rest carried over."""
    size = min(size, count)
    rest = torch.empty(0, dtype=torch.long)
    while True:
        rest = torch.cat([rest, torch.randperm(count, generator=generator)])
        while len(rest) >= size:
            yield rest[:size]
            rest = rest[size:]


def draw(data: TensorData, count: int, generator: torch.Generator, *, classes: bool) -> TensorData:
    """`count` of the samples without repeats, in random order (all of them, shuffled, if there are no more).

    With `classes` the targets [N] are labels, and the draw is stratified: it holds every class if `count` allows, and
    each about as often as the data do.
    """
    order = torch.randperm(len(data), generator=generator)
    if classes:
        labels = data.targets[order].cpu()
        place = torch.empty(len(order), dtype=torch.float64)
        for label in range(int(labels.max()) + 1):
            (own,) = torch.nonzero(labels == label, as_tuple=True)
            place[own] = torch.arange(len(own), dtype=torch.float64) / max(1, len(own))
        # Taken by place: first one of every class, then the others in proportion; ties in random order.
        order = order[torch.argsort(place, stable=True)[:count]]
        order = order[torch.randperm(len(order), generator=generator)]
    chosen = order[:count].to(data.targets.device)
    return TensorData(data.inputs[chosen.to(data.inputs.device)], data.targets[chosen])
