"""Where the trunk of a joint module comes from, and the network that it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import Headless, copy_of, forward, origin_of, trainable
from crosstask.learning.own_models import own_network
from crosstask.learning.transferring import fresh_model, fresh_text, source_digest
from crosstask.options import options_of
from crosstask.tasks import Task
from crosstask_multitask.heads import features_of, head_for
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


class Headed(nn.Module):
    """A trunk and a head on its features."""

    whole_inputs = True

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, inputs: Tensor | MultiInput) -> Tensor:
        outputs: Tensor = self.head(forward(self.trunk, inputs))
        return outputs


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
    trunk = trainable(Headless(model))
    return Origin(trunk, f"the model of task {task.task_id!r}", source_digest(model), lambda _: model)


def own_network_of(task: Task, spec: ModelSpec, seed: int) -> nn.Module | None:
    """The task's own network, registered with it or made by its factory, where it is none that `spec` makes."""
    if task.model is None:
        return own_network(spec, task, seed) if task.build is not None else None
    made = origin_of(task.model).made
    return None if made is not None and made["spec"] == options_of(spec) else task.model


def of_architecture(network: nn.Module, task: Task, seed: int) -> Origin:
    """The trunk of a network like this one, drawn anew."""
    trunk = Headless(fresh_model(network, task, seed))
    return Origin(trunk, None, ["like", fresh_text(network)], lambda _: network)


def of_module(module: nn.Module, task: Task, label: str) -> Origin:
    """A module itself, without its part called `head` if it has one. DataError if it gives no features for the task."""
    if isinstance(module, MultiTaskModule):
        raise DataError(f"{label} takes inputs by task: give the trunk of such a module, not the whole")
    whole = "head" in dict(module.named_children())
    trunk = trainable(Headless(module) if whole else copy_of(module))
    try:
        features = features_of(trunk, task)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:  # whatever its layers say of another shape
        raise DataError(f"{label} does not take the inputs of task {task.task_id!r}: {error}") from error
    try:
        head_for(task, features)
    except DataError as error:
        raise DataError(f"{label} fits no head: {error}") from None

    def alone(other: Task) -> nn.Module:
        if whole:
            return module
        return Headed(module, head_for(other, features))

    return Origin(trunk, label, source_digest(module), alone)
