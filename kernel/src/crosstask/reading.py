"""Reads a split of a task into memory, checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from crosstask.descriptors import TaskDescriptor, TensorData
from crosstask.errors import DataError


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
