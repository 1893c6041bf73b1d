"""In what range inputs lie, which a shift does not leave."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from crosstask.errors import DataError
from crosstask.tasks import Task


@attrs.frozen(eq=False)
class Range:
    """Of inputs [N, …]: the least and largest value, mean and standard deviation, each of one sample's shape; of images
    and signals (two dimensions or more) least and largest are one number for all places.
    """

    low: Tensor
    high: Tensor
    mean: Tensor
    spread: Tensor

    @property
    def width(self) -> Tensor:
        """From the least to the largest."""
        return self.high - self.low

    def inside(self, inputs: Tensor) -> Tensor:
        """Inputs cut to it."""
        return torch.minimum(torch.maximum(inputs, self.low.to(inputs)), self.high.to(inputs))


def range_of(task: Task) -> Range:
    """That of a task's training data. DataError for several inputs, or whole numbers, which may be names of things."""
    inputs = task.data("train").inputs
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        have = f"whole numbers ({inputs.dtype})" if isinstance(inputs, Tensor) else "several inputs"
        raise DataError(f"task {task.task_id!r} has {have}: only inputs of one tensor of real numbers are shifted")
    low, high = (inputs.amin(0), inputs.amax(0)) if inputs.ndim == 2 else (inputs.amin(), inputs.amax())
    shape = inputs.shape[1:]
    spread = inputs.std(0) if len(inputs) > 1 else torch.zeros(shape, dtype=inputs.dtype)
    return Range(low.expand(shape).clone(), high.expand(shape).clone(), inputs.mean(0), spread)
