"""Labelled samples of a new task's classes that other tasks have held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import TaskDescriptor
from crosstask.learning.training import predict
from crosstask.tasks import Task

FEWEST = 5
"""With fewer held-out samples of a class nothing can be said."""


@attrs.frozen(eq=False)
class Known:
    """Labelled samples [N, …], [N], with which half of all images each belongs to."""

    inputs: Tensor
    labels: Tensor
    odd: Tensor

    def half(self, odd: bool) -> Known:
        chosen = self.odd == odd
        return Known(self.inputs[chosen], self.labels[chosen], self.odd[chosen])


def known_samples(task: TaskDescriptor, sources: Sequence[Task]) -> Known | None:
    """Held-out samples of a task's classes from sources of its own domain, each image once, labelled by the task's own
    numbers. None if a class has fewer than five, or if the domain is the default `general`, which says nothing.
    """
    if task.task_type != "classification" or not task.classes or task.domain == "general":
        return None
    found: dict[bytes, tuple[Tensor, int]] = {}
    for source in sources:
        its = source.descriptor
        if its.domain != task.domain or its.task_type != "classification":
            continue
        names = {place: task.classes.index(c) for place, c in enumerate(its.classes) if c in task.classes}
        data = source.data("validation")
        if not names or (task.input_shape and tuple(data.inputs.shape[1:]) != task.input_shape):
            continue
        for row, label in zip(data.inputs, data.targets.tolist(), strict=True):
            if label in names:
                found[_digest(row)] = (row, names[label])
    labels = torch.tensor([label for _, label in found.values()], dtype=torch.long)
    if int(torch.bincount(labels, minlength=len(task.classes)).min()) < FEWEST:
        return None
    odd = torch.tensor([bool(key[0] & 1) for key in found])
    return Known(torch.stack([row for row, _ in found.values()]), labels, odd)


def _digest(row: Tensor) -> bytes:
    return hashlib.blake2b(row.detach().cpu().contiguous().numpy().tobytes(), digest_size=8).digest()


def balanced(model: nn.Module, known: Known, classes: int) -> tuple[float, float]:
    """(mean over classes of the accuracy, how many samples of equally frequent classes would say as much)."""
    right = (predict(model, known.inputs).argmax(1) == known.labels).double()
    counts = torch.bincount(known.labels, minlength=classes).double()
    hits = torch.bincount(known.labels, weights=right, minlength=classes)
    counts, hits = counts[counts > 0], hits[counts > 0]
    return float((hits / counts).mean()), float(len(counts) ** 2 / (1 / counts).sum())
