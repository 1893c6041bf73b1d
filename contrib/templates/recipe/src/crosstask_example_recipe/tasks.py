"""Points in the plane, and what can be asked about them."""

from __future__ import annotations

import torch
from torch import Tensor

from crosstask.descriptors import TaskDescriptor
from crosstask.tasks import Portfolio, Task


def plane(samples: int = 200, seed: int = 0) -> Portfolio:
    """Three yes-or-no tasks with `samples` points in each split."""
    generator = torch.Generator().manual_seed(seed)
    splits = torch.rand(3, samples, 2, generator=generator) * 2 - 1
    return Portfolio([_task(name, splits) for name in ("above", "inside", "ring")], name="plane")


def _task(name: str, splits: Tensor) -> Task:
    train, validation, test = ((points, _labels(name, points)) for points in splits)
    descriptor = TaskDescriptor(
        task_id=name, domain="plane", input_shape=(2,), output_dim=2, sample_count=len(train[0]), classes=("no", "yes")
    )
    return Task(descriptor=descriptor, train=train, validation=validation, test=test)


def _labels(name: str, points: Tensor) -> Tensor:
    """0 or 1 for each point [N, 2]."""
    radius = points.norm(dim=1)
    questions: dict[str, Tensor] = {
        "above": points[:, 1] > 0,
        "inside": radius < 0.7,
        "ring": (radius > 0.4) & (radius < 0.9),
    }
    return questions[name].long()
