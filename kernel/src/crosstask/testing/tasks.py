"""Small real tasks for checks: points in the plane, a few dozen training steps, the same in every process.

Made here and not loaded, because the kernel depends on no data set.
"""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import TaskDescriptor
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.learning.models import ModelSpec
from crosstask.learning.training import fit
from crosstask.records import Budget
from crosstask.tasks import Portfolio, Task

MODEL = ModelSpec(hidden=(16, 16))
"""The network of the small tasks."""

BUDGET = Budget(steps=8, batch_size=16, learning_rate=0.01, evaluate_every=3)
"""Enough to move, too little to learn: what checks of a training spend."""

_SIZES = {"train": 64, "validation": 48, "test": 48}


def two_moons(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(points [N, 2], moon [N]): two interleaved half circles with a little noise, as many of each."""
    generator = torch.Generator().manual_seed(seed)
    moon = torch.arange(count) % 2
    angle = torch.rand(count, generator=generator) * math.pi
    x = torch.where(moon == 0, angle.cos(), 1 - angle.cos())
    y = torch.where(moon == 0, angle.sin(), 0.5 - angle.sin())
    points = torch.stack([x - 0.5, y - 0.25], dim=1) + 0.1 * torch.randn(count, 2, generator=generator)
    order = torch.randperm(count, generator=generator)
    return points[order], moon[order]


def blobs(task_id: str, seed: int = 0, classes: int = 3, count: int = 120, **fields: object) -> Task:
    """A classification task of Gaussian clusters in the plane, in three splits; `fields` are the descriptor's."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(classes, 2, generator=generator)
    labels = torch.arange(count) % classes
    inputs = centres[labels] + 0.5 * torch.randn(count, 2, generator=generator)
    half, quarter = count // 2, count // 4
    names = tuple(f"{task_id}-{c}" for c in range(classes))
    known = {"input_shape": (2,), "output_dim": classes, "classes": names, "sample_count": half, **fields}
    return Task(
        descriptor=TaskDescriptor(task_id=task_id, **known),  # type: ignore[arg-type]
        train=(inputs[:half], labels[:half]),
        validation=(inputs[half : half + quarter], labels[half : half + quarter]),
        test=(inputs[half + quarter :], labels[half + quarter :]),
    )


def _labels(name: str, points: Tensor, moon: Tensor, seed: int) -> Tensor:
    right = (points[:, 0] > 0).long()
    if name == "halves":
        return right
    if name == "quarters":
        return moon * 2 + right
    if name == "shuffled":
        return moon[torch.randperm(len(moon), generator=torch.Generator().manual_seed(seed))]
    return moon


_CLASSES = {
    "moons": ("upper", "lower"),
    "turned": ("upper", "lower"),
    "halves": ("left", "right"),
    "quarters": ("upper left", "upper right", "lower left", "lower right"),
    "shuffled": ("heads", "tails"),
    "mirrored": ("upper", "lower"),
}
_NEEDS = {"turned": ("moons",), "quarters": ("moons", "halves")}
_COMPLEXITY = {"moons": 0.4, "turned": 0.5, "halves": 0.1, "quarters": 0.7, "shuffled": 1.0, "mirrored": 0.4}
_TRANSFORMS = {"turned": ((0.0, -1.0), (1.0, 0.0)), "mirrored": ((-1.0, 0.0), (0.0, 1.0))}


def small_task(name: str) -> Task:
    """One of the tasks of `small_portfolio`, without a model."""
    splits: dict[str, Any] = {}
    for number, (split, size) in enumerate(_SIZES.items()):
        points, moon = two_moons(size, seed=number)
        targets = _labels(name, points, moon, seed=number)
        if name in _TRANSFORMS:
            points = points @ torch.tensor(_TRANSFORMS[name])
        splits[split] = (points, targets)
    descriptor = TaskDescriptor(
        task_id=name,
        domain=f"plane/{'turned' if name in _TRANSFORMS else 'plain'}",
        input_shape=(2,),
        output_dim=len(_CLASSES[name]),
        sample_count=_SIZES["train"],
        complexity=_COMPLEXITY[name],
        required_skills=("curves", "sides") if name == "quarters" else ("sides",) if name == "halves" else ("curves",),
        domain_knowledge=("plane",),
        prerequisites=_NEEDS.get(name, ()),
        classes=_CLASSES[name],
    )
    return Task(descriptor=descriptor, **splits)


@functools.cache
def _model(name: str) -> nn.Module:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        task = small_task(name)
        model = MODEL.build(task.descriptor, 0)
        fit(model, task, attrs.evolve(BUDGET, steps=60), torch.Generator().manual_seed(0), curve_split=None)
    finally:
        torch.set_default_dtype(before)
    return model


def trained(task: Task) -> Task:
    """The task with a small trained model (trained once in a process, copied each time)."""
    task.model = copy.deepcopy(_model(task.task_id))
    return task


def small_portfolio(*, models: bool = True) -> Portfolio:
    """Five classification tasks in the plane, with prerequisites, and `mirrored`, held back as unseen.

    `moons` and `turned` name the same classes, `quarters` has four, `shuffled` cannot be learned.
    """
    tasks = [small_task(name) for name in ("moons", "halves", "turned", "quarters", "shuffled")]
    for task in tasks if models else ():
        trained(task)
    return Portfolio(tasks, unseen=[small_task("mirrored")], name="plane")


def small_graph(portfolio: Portfolio) -> TransferGraph:
    """The tasks of a portfolio with a measured edge for most pairs, as a discoverer would have left them."""
    graph = TransferGraph(task.descriptor for task in [*portfolio, *portfolio.unseen])
    for number, (source, target) in enumerate(portfolio.pairs()):
        if number % 5 != 4:
            coefficient = round(math.sin(3 * number + 1), 3)
            graph.add(
                TransferEdge(
                    source=source.task_id,
                    target=target.task_id,
                    transfer_coefficient=coefficient,
                    evidence=Evidence.MEASURED,
                    found_by="crosstask.testing",
                    uncertainty=0.1,
                    low=max(-1.0, coefficient - 0.2),
                    high=min(1.0, coefficient + 0.2),
                )
            )
    return graph
