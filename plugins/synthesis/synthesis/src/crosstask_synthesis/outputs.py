"""Outputs of models for tasks of every type, as outputs of the new task: single logits, classes by name, places."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.learning.modules import forward
from crosstask.learning.objectives import chance, metric_of
from crosstask.reading import DENSE
from crosstask.tasks import Task

CLASSES = ("classification", *DENSE)
"""Task types whose outputs are logits of classes that exclude one another."""


def is_single(task: TaskDescriptor) -> bool:
    """Whether a classification task tells two classes apart by a single logit, that of the second."""
    return task.task_type == "classification" and task.output_dim == 1


def outputs_wanted(task: TaskDescriptor) -> int:
    """How many outputs a task has, a single logit counted as two; 0 if it does not say."""
    return 2 if is_single(task) else task.output_dim or len(task.classes)


def class_dim(task: TaskDescriptor) -> int:
    """The dimension of a model's outputs along which the classes (labels, values) lie."""
    return 1 if task.task_type == "segmentation" else -1


def two_sided(outputs: Tensor) -> Tensor:
    """Logits [N, 2] with the probabilities of a single logit [N, 1], whose mean is 0; others as they are."""
    return torch.cat([-outputs / 2, outputs / 2], dim=1) if outputs.ndim == 2 and outputs.shape[1] == 1 else outputs


class Answering(nn.Module):
    """A model whose outputs are those of another task: a single logit as two or two as one, other classes left off."""

    whole_inputs = True
    places: Tensor
    """Numbers of the outputs that are used, in their new order."""

    def __init__(self, model: nn.Module, places: Sequence[int], dim: int, opened: bool, single: bool) -> None:
        super().__init__()
        self.model, self.dim, self.opened, self.single = model, dim, opened, single
        device = next((p.device for p in model.parameters()), None)
        self.register_buffer("places", torch.tensor(list(places), device=device))

    def forward(self, inputs: Tensor | MultiInput) -> Tensor:
        outputs = forward(self.model, inputs)
        chosen = (two_sided(outputs) if self.opened else outputs).index_select(self.dim, self.places)
        return chosen[:, 1:] - chosen[:, :1] if self.single else chosen


def answering(model: nn.Module, known: TaskDescriptor, wanted: TaskDescriptor) -> nn.Module:
    """`model`, which answers the task `known`, for one whose classes are all among those: itself where its outputs are
    the new task's already.
    """
    count = outputs_wanted(known)
    places = [known.classes.index(name) for name in wanted.classes] if known.classes and wanted.classes else []
    places = places or list(range(count))
    if places == list(range(count)) and is_single(known) == is_single(wanted):
        return model
    return Answering(model, places, class_dim(wanted), is_single(known), is_single(wanted))


def baseline(task: Task, split: str = "validation") -> float | None:
    """The score of one who knows nothing of the inputs: of guessing among equally frequent classes for accuracy, else
    of the most frequent answer in the training data (their mean, for values), else the worst there is. None where
    nothing can be said.
    """
    metric, its = metric_of(task), task.descriptor
    if its.task_type in CLASSES and metric.told in ("accuracy", "balanced_accuracy"):
        return 1 / max(2, outputs_wanted(its))
    if metric.range == (0.0, 1.0) and its.task_type not in CLASSES:
        return 0.0
    found = chance(task, split)
    if found is None and metric.range[0] > -float("inf"):
        return metric.range[0]
    return found
