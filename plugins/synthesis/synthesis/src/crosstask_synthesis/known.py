"""Labelled samples of a new task's classes that other tasks have held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.learning.inputs import joined, kind_of, shape_of
from crosstask.learning.training import predict
from crosstask.tasks import Task
from crosstask_synthesis.outputs import two_sided

FEWEST = 5
"""With fewer held-out samples of a class nothing can be said."""


@attrs.frozen(eq=False)
class Known:
    """Labelled samples [N, …], [N], with which half of all images each belongs to."""

    inputs: Tensor | MultiInput
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
    found: dict[bytes, tuple[Tensor | MultiInput, int]] = {}
    kind: object = None
    for source in sources:
        its = source.descriptor
        if its.domain != task.domain or its.task_type != "classification":
            continue
        names = {place: task.classes.index(c) for place, c in enumerate(its.classes) if c in task.classes}
        data = source.data("validation")
        own = kind_of(data.inputs)
        wanted = task.input_shape or task.input_shapes
        if not names or (wanted and shape_of(data.inputs) != wanted) or (found and own != kind):
            continue
        kind = own
        for number, label in enumerate(data.targets.tolist()):
            if label in names:
                row = data.inputs[number : number + 1]
                found[_digest(row)] = (row, names[label])
    labels = torch.tensor([label for _, label in found.values()], dtype=torch.long)
    if int(torch.bincount(labels, minlength=len(task.classes)).min()) < FEWEST:
        return None
    odd = torch.tensor([bool(key[0] & 1) for key in found])
    return Known(joined([row for row, _ in found.values()]), labels, odd)


def _digest(row: Tensor | MultiInput) -> bytes:
    parts = row.parts.values() if isinstance(row, MultiInput) else (row,)
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part.detach().cpu().contiguous().numpy().tobytes())
    return digest.digest()


def balanced(model: nn.Module, known: Known, classes: int) -> tuple[float, float]:
    """(mean over classes of the accuracy, how many samples of equally frequent classes would say as much)."""
    right = (two_sided(predict(model, known.inputs)).argmax(1).cpu() == known.labels).double()
    counts = torch.bincount(known.labels, minlength=classes).double()
    hits = torch.bincount(known.labels, weights=right, minlength=classes)
    counts, hits = counts[counts > 0], hits[counts > 0]
    return float((hits / counts).mean()), float(len(counts) ** 2 / (1 / counts).sum())
