"""For tests of continual strategies: the smallest right ones, and real tasks and learners to try one on.

Split digits are scikit-learn's: `digits` and what is made of it need that package.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import TaskDescriptor
from crosstask.learning.models import ModelSpec
from crosstask.manifest import Extension, Plugin
from crosstask.options import component, option, state
from crosstask.tasks import Task
from crosstask_continual.batch import Batch
from crosstask_continual.contract import ContinualStrategy
from crosstask_continual.learner import ContinualLearner
from crosstask_continual.model import ContinualModel
from crosstask_continual.plugin import PLUGIN
from crosstask_continual.split import split_by_classes


@component
class ReferenceContinual(ContinualStrategy):
    """Pulls every weight to where the last task left it."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"task", "domain"})
    unsuited: ClassVar[dict[str, str]] = {"class": "no loss compares classes of different tasks"}
    strength: float = option(0.1, ge=0, help="half of it times the squared distance is added to the loss")
    last: dict[str, Tensor] = state(factory=dict)

    def penalty(self, model: ContinualModel, batch: Batch, outputs: Tensor) -> Tensor | None:
        total = outputs.new_zeros(())
        for name, weight in model.named_parameters():
            if name in self.last:
                old = self.last[name].to(weight)
                total = total + (weight[: len(old)] - old).square().sum()  # a head may have grown
        return self.strength / 2 * total

    def task_ends(self, model: ContinualModel, task: Task) -> None:
        self.last = {name: weight.detach().clone() for name, weight in model.named_parameters()}


@component
class ReferenceReplay(ContinualStrategy):
    """Learns the first samples of every task again."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"task", "domain", "class"})
    buffer_size: int = option(40, ge=1, help="samples of each task")
    kept: list[Tensor] = state(factory=list)

    def replay(self, batch: Batch) -> Batch | None:
        if not self.kept:
            return None
        inputs, targets, task_ids = self.kept
        return Batch(inputs, targets, task_ids)

    def task_ends(self, model: ContinualModel, task: Task) -> None:
        new = model.data(task).part(slice(self.buffer_size))
        columns = [new.inputs, new.targets, new.task_ids]
        self.kept = [torch.cat(pair) for pair in zip(self.kept, columns, strict=True)] if self.kept else columns


REFERENCE = Plugin(
    "reference-continual",
    points=PLUGIN.points,
    extensions=[
        Extension("continual", "reference", "crosstask_continual.testing:ReferenceContinual", summary="For checks."),
        Extension("continual", "replaying", "crosstask_continual.testing:ReferenceReplay", summary="For checks."),
    ],
    api=(2, 0),
)
"""For a registry of references: `crosstask.testing.reference_registry(REFERENCE)`."""


@functools.cache
def images() -> tuple[Tensor, Tensor]:
    """(images [1797, 1, 8, 8] from 0 to 1, digits [1797])."""
    from sklearn.datasets import load_digits  # deferred: only these tasks need it

    found = load_digits()
    return torch.tensor(found.images / 16.0, dtype=torch.float32)[:, None], torch.tensor(found.target)


def digits() -> Task:
    """Ten digits: 1200 images to learn from, the others for the test."""
    inputs, targets = images()
    descriptor = TaskDescriptor(task_id="digits", input_shape=(1, 8, 8), output_dim=10)
    return Task(descriptor=descriptor, train=(inputs[:1200], targets[:1200]), test=(inputs[1200:], targets[1200:]))


def pairs() -> list[Task]:
    """Split digits: 0 and 1, 2 and 3, …"""
    return split_by_classes(digits(), 5)


def network(outputs: int = 10, hidden: Sequence[int] = (64, 64), seed: int = 0) -> nn.Module:
    """A perceptron for digits."""
    return ModelSpec(hidden=tuple(hidden)).build(attrs.evolve(digits().descriptor, output_dim=outputs), seed)


def learner(
    strategy: Any = None,
    scenario: str = "task",
    *,
    model: nn.Module | None = None,
    outputs: int = 10,
    hidden: Sequence[int] = (64, 64),
    **given: Any,
) -> ContinualLearner:
    """A learner of split digits, of a perceptron unless a `model` is given; `given`: what `ContinualLearner` takes."""
    made = model or network(2 if scenario == "domain" else outputs, hidden)
    return ContinualLearner(made, strategy, scenario=scenario, **{"learning_rate": 1e-2, "batch_size": 32, **given})


def learned(
    strategy: Any = None, scenario: str = "task", *, epochs: int = 8, count: int = 5, **given: Any
) -> ContinualLearner:
    """The same after the first `count` tasks."""
    made = learner(strategy, scenario, **given)
    for task in pairs()[:count]:
        made.train_task(task, num_epochs=epochs)
    return made


def accuracy(made: ContinualLearner) -> float:
    """Mean over the tasks so far."""
    found = made.scores().accuracy
    assert found is not None
    return found.mean


def forgetting(made: ContinualLearner) -> float:
    """Mean over the tasks before the last."""
    found = made.scores().forgetting
    assert found is not None
    return found.mean
