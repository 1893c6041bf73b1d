"""Every balancer with every sharing architecture of the registry, on one table with a mask and with a sampler.

Architectures and balancers come in by being installed; nothing here names them.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from crosstask import Budget, OptionError, Registry, TaskDescriptor
from crosstask.components import Component
from crosstask.context import LocalContext
from crosstask.tasks import Portfolio, Task
from crosstask_multitask import MultiTaskModule, MultiTaskTrainer

REGISTRY = Registry.installed()
COUNT = 24
PARTS = ("equal", "pcgrad")
"""Of a balancer that is made of others."""


class DrawsTwo(Component):
    """Two of three tasks, others from step to step."""

    point = "sampler"
    number = 0

    def sample(self, tasks: list[str], history: Any, rng: torch.Generator) -> list[str]:
        self.number += 1
        left_out = tasks[self.number % len(tasks)]
        return [task for task in tasks if task != left_out]


@functools.cache
def pictures() -> tuple[Tensor, Tensor]:
    images, digit = (torch.from_numpy(part)[:COUNT] for part in load_digits(return_X_y=True))
    return (images.view(-1, 8, 8)[:, ::2, ::2].flatten(1) / 16).float(), digit


@functools.cache
def own_data() -> tuple[Task, ...]:
    """Three questions about digits, each with data of its own."""
    images, digit = pictures()
    targets = {"digit": digit, "odd": digit % 2, "ink": images.mean(dim=1, keepdim=True)}
    kinds = {"digit": ("classification", 10), "odd": ("classification", 2), "ink": ("regression", 1)}
    return tuple(
        Task(
            descriptor=TaskDescriptor(task_id=name, task_type=kinds[name][0], output_dim=kinds[name][1]),
            train=(images.clone(), target),
        )
        for name, target in targets.items()
    )


@functools.cache
def one_table() -> tuple[Task, ...]:
    """The same questions of one table, in which a third of the labels is not known (NaN)."""
    images, digit = pictures()
    targets = {"digit": digit.float(), "odd": (digit % 2).float(), "ink": images.mean(dim=1)}
    for number, target in enumerate(targets.values()):
        target[number::3] = math.nan
    kinds = {"digit": ("classification", 10), "odd": ("classification", 1), "ink": ("regression", 1)}
    described = {n: TaskDescriptor(task_id=n, task_type=kind, output_dim=size) for n, (kind, size) in kinds.items()}
    return tuple(Portfolio.from_table(images, targets, descriptors=described))


def balancer(name: str, tasks: list[str]) -> Any:
    """One of that name; what must be told is told."""
    for options in ({}, {"weights": dict.fromkeys(tasks, 1.0)}, {"parts": list(PARTS)}):
        try:
            return REGISTRY.create("balancer", name, options)
        except OptionError:
            continue
    pytest.fail(f"balancer {name!r} asks for options that are not known here: give them in `balancer`")


def built(sharing: str, tasks: tuple[Task, ...]) -> MultiTaskModule:
    torch.manual_seed(0)
    made: Any = REGISTRY.create("sharing", sharing, {})
    made.bind(LocalContext())
    module: MultiTaskModule = made.build(
        list(tasks), nn.Sequential(nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh())
    )
    return module


@pytest.mark.parametrize("sharing", REGISTRY.names("sharing"))
def test_every_balancer_trains_this_architecture(sharing: str) -> None:
    """A step on tasks of their own data, and two of one table with a mask, of which two of three tasks are drawn."""
    budget = Budget(steps=2, batch_size=12, learning_rate=0.01)
    fresh = {tasks: built(sharing, tasks) for tasks in (own_data(), one_table())}
    begun = {
        tasks: {name: value.clone() for name, value in module.state_dict().items()} for tasks, module in fresh.items()
    }
    for name in REGISTRY.names("balancer"):
        for tasks, steps in ((own_data(), 1), (one_table(), 2)):
            module, before = fresh[tasks], begun[tasks]
            module.load_state_dict(before)
            made = balancer(name, [task.task_id for task in tasks])
            sampler: Any = DrawsTwo() if tasks is one_table() and made.least_tasks < 3 else None
            who = f"{name} with {sharing}, {'one table' if tasks is one_table() else 'own data'}"
            trainer = MultiTaskTrainer(module, list(tasks), made, budget, LocalContext(), sampler)
            for number in range(1, steps + 1):
                losses = trainer.step(number, record=number == 2)
                assert len(losses) == (3 if sampler is None else 2), who
                assert all(math.isfinite(loss) for loss in losses.values()), who
                assert made.last.names == tuple(losses), who
                assert bool(torch.isfinite(made.last.weights).all()), who
            after = dict(module.named_parameters())
            assert all(bool(torch.isfinite(p).all()) for p in after.values()), who
            moved = [not torch.equal(p, before[parameter]) for parameter, p in after.items()]
            assert sum(moved) > len(moved) / 2, f"{who}: {sum(moved)} of {len(moved)} parameters moved"


@pytest.mark.parametrize("sharing", REGISTRY.names("sharing"))
def test_a_task_without_any_label_in_a_batch_takes_no_part_in_it(sharing: str) -> None:
    """Of a table whose second task has a single label: the steps without it have two losses, and train the others."""
    images, digit = pictures()
    odd = torch.full((COUNT,), math.nan)
    odd[0] = 1.0
    described = {
        "digit": TaskDescriptor(task_id="digit", output_dim=10),
        "odd": TaskDescriptor(task_id="odd", output_dim=1),
    }
    tasks = tuple(Portfolio.from_table(images, {"digit": digit, "odd": odd}, descriptors=described))
    module = built(sharing, tasks)
    made: Any = REGISTRY.create("balancer", "equal", {})
    trainer = MultiTaskTrainer(module, list(tasks), made, Budget(steps=4, batch_size=6), LocalContext())
    counts = [len(trainer.step(number)) for number in range(1, 5)]
    assert set(counts) == {1, 2}
    assert len(trainer.history["odd"]) == counts.count(2)
