"""Where the trunk of a joint module comes from, and the network that it is compared with."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import attrs
from torch import nn

from crosstask.errors import DataError
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import Headless
from crosstask.learning.training import predict
from crosstask.learning.transferring import architecture, weights_digest
from crosstask.tasks import Task
from crosstask_multitask.sharing import MultiTaskModule


@attrs.frozen(eq=False)
class Origin:
    """A trunk of its own, that can be changed and trained: a module that maps inputs [N, …] to features [N, F].

    `label` says whose it was, None for one drawn anew; `identity` is what determines it, for keys of stored results.
    `alone` gives a network of the same layers with a head, for a task: what training that task alone starts from.
    """

    trunk: nn.Module
    label: str | None
    identity: Any
    alone: Callable[[Task], nn.Module]


def of_model(spec: ModelSpec, task: Task, seed: int, seed_alone: int) -> Origin:
    """The trunk of a network drawn from `seed`."""
    return Origin(
        Headless(spec.build(task.descriptor, seed)), None, spec, lambda other: spec.build(other.descriptor, seed_alone)
    )


def of_task(task: Task) -> Origin:
    """The trunk of a task's own model. DataError if it has none."""
    model = task.model
    if model is None:
        raise DataError(f"task {task.task_id!r} has neither a trained model nor training data to start from")
    identity = [weights_digest(model), architecture(model)]
    trunk = Headless(model).requires_grad_(True)
    return Origin(trunk, f"the model of task {task.task_id!r}", identity, lambda _: model)


def of_module(module: nn.Module, task: Task, label: str) -> Origin:
    """A module itself, without its part called `head` if it has one. DataError if it gives no features for the task."""
    if isinstance(module, MultiTaskModule):
        raise DataError(f"{label} takes inputs by task: give the trunk of such a module, not the whole")
    whole = "head" in dict(module.named_children())
    trunk = (Headless(module) if whole else copy.deepcopy(module)).requires_grad_(True)
    inputs = task.data("train").inputs[:2]
    try:
        features = predict(trunk, inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:  # whatever its layers say of another shape
        raise DataError(f"{label} does not take the inputs of task {task.task_id!r}: {error}") from error
    if features.ndim != 2:
        shape = tuple(features.shape)
        raise DataError(f"{label} must give features of shape ({len(inputs)}, F), got {shape}")

    def alone(other: Task) -> nn.Module:
        if whole:
            return module
        head = nn.Linear(features.shape[1], other.descriptor.output_dim or 1).to(features)
        return nn.Sequential(OrderedDict(trunk=module, head=head))

    return Origin(trunk, label, [weights_digest(module), str(module)], alone)
