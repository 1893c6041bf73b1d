"""A head for a task, on whatever features a trunk gives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.modules import forward
from crosstask.tasks import SPLITS, Task

_CONVOLUTIONS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_BETWEEN = {3: "linear", 4: "bilinear", 5: "trilinear"}


class Mean(nn.Module):
    """Maps [N, F, …] to their mean over all places, [N, F]."""

    def forward(self, features: Tensor) -> Tensor:
        return features.flatten(2).mean(dim=2)


def head_for(task: Task, features: Tensor, hidden: int = 0) -> nn.Module:
    """A head from features as these to the task's logits, with a ReLU layer of `hidden` units before it if not 0.

    From features [N, F] a linear layer, likewise from those of the places of a sequence [N, L, F] for
    `token_classification`. From maps [N, F, H, W] a 1x1 convolution for `segmentation` (whose answer is interpolated
    to the size of the labels), and a linear layer on their mean for anything else. DataError for other features, or a
    task without output_dim.
    """
    outputs, kind, shape = task.descriptor.output_dim, task.descriptor.task_type, tuple(features.shape)
    if outputs is None:
        raise DataError(f"task {task.task_id!r}: a head needs output_dim in the descriptor")
    if kind == "segmentation":
        if features.ndim not in _CONVOLUTIONS:
            raise DataError(f"task {task.task_id!r}: the trunk must give maps (2, F, H, W) to segment, got {shape}")
        made: nn.Module = _pointwise(features, outputs, hidden)
        labels = _size_of_labels(task)
        if labels is not None and labels != shape[2:]:
            made = nn.Sequential(made, nn.Upsample(size=labels, mode=_BETWEEN[features.ndim]))
    else:
        of_places = kind == "token_classification"
        if features.ndim != (3 if of_places else 2) and (of_places or features.ndim not in (4, 5)):
            wanted = "(2, L, F)" if of_places else "(2, F)"
            raise DataError(f"task {task.task_id!r}: the trunk must give features of shape {wanted}, got {shape}")
        made = _linear(shape[1 if features.ndim > 3 else -1], outputs, hidden)
        if features.ndim > 3:
            made = nn.Sequential(Mean(), made)
    return made.to(features)


def _linear(width: int, outputs: int, hidden: int) -> nn.Module:
    if not hidden:
        return nn.Linear(width, outputs)
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def _pointwise(features: Tensor, outputs: int, hidden: int) -> nn.Module:
    convolution, width = _CONVOLUTIONS[features.ndim], features.shape[1]
    if not hidden:
        return convolution(width, outputs, 1)
    return nn.Sequential(convolution(width, hidden, 1), nn.ReLU(), convolution(hidden, outputs, 1))


def _size_of_labels(task: Task) -> tuple[int, ...] | None:
    split = next((each for each in SPLITS if task.has_data(each)), None)
    return None if split is None else tuple(task.data(split).targets.shape[1:])


@torch.no_grad()
def features_of(trunk: nn.Module, task: Task) -> Tensor:
    """What the trunk gives for two of the task's inputs, in evaluation mode. DataError if that is no batch of features.

    Without data they are zeros of the descriptor's shape.
    """
    example = _example(task, next((p for p in trunk.parameters() if p.is_floating_point()), torch.zeros(0)))
    modes = {module: module.training for module in trunk.modules()}
    trunk.eval()  # BatchNorm's statistics must not see the example
    try:
        features = forward(trunk, example)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if features.ndim < 2 or len(features) != len(example) or not features.is_floating_point():
        shape = tuple(features.shape)
        expected = f"({len(example)}, F)"
        raise DataError(f"task {task.task_id!r}: the trunk must give features of shape {expected}, got {shape}")
    return features


def _example(task: Task, like: Tensor) -> Tensor | MultiInput:
    split = next((each for each in SPLITS if task.has_data(each)), None)
    if split is not None:
        return task.data(split).inputs[:2].to(like.device)
    shape, shapes = task.descriptor.input_shape, task.descriptor.input_shapes
    if not shape and not shapes:
        raise DataError(f"task {task.task_id!r}: a head needs data or input_shape in the descriptor")
    if shape:
        return like.new_zeros(2, *shape)
    return MultiInput({name: like.new_zeros(2, *each) for name, each in shapes.items()})
