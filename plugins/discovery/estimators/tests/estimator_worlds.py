"""What the tests of this plugin share: labelled features of several kinds, and tasks on real digits."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from crosstask.graph import TransferGraph
from crosstask.learning.models import ModelSpec
from crosstask.learning.training import fit
from crosstask.records import Budget
from crosstask.tasks import Portfolio, Task, TaskDescriptor

Array = NDArray[Any]


def labelled(
    samples: int = 60, width: int = 7, classes: int = 3, noise: float = 1.0, seed: int = 0
) -> tuple[Array, Array]:
    """Features in which the classes lie apart, the more so the smaller the noise; every class occurs."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(samples) % classes)
    return rng.normal(size=(classes, width))[labels] + noise * rng.normal(size=(samples, width)), labels


@cache
def images() -> tuple[torch.Tensor, torch.Tensor]:
    raw = load_digits()
    order = np.random.default_rng(0).permutation(len(raw.target))[:600]
    return torch.tensor(raw.images[order] / 16, dtype=torch.float32), torch.tensor(raw.target[order])


def task(name: str, labels: torch.Tensor, inputs: torch.Tensor | None = None, *, learned: bool = True) -> Task:
    given = images()[0][:, None] if inputs is None else inputs
    made = Task(
        descriptor=TaskDescriptor(task_id=name, input_shape=(1, 8, 8), output_dim=int(labels.max()) + 1),
        train=(given[:400], labels[:400]),
        validation=(given[400:], labels[400:]),
    )
    if learned:
        made.model = ModelSpec(hidden=(32, 24)).build(made.descriptor, seed=0)
        budget = Budget(steps=200, learning_rate=1e-2)
        fit(made.model, made, budget, torch.Generator().manual_seed(0), curve_split=None)
    return made


@cache
def _learned() -> list[Task]:
    pictures, truth = images()
    generator = torch.Generator().manual_seed(0)
    noise = truth[torch.randperm(len(truth), generator=generator)]
    turned = pictures.rot90(dims=(1, 2))[:, None]
    return [
        task("ten", truth),
        task("parity", truth % 2),
        task("low", truth.clamp_max(5)),
        task("turned", truth, turned),
        task("noise", noise),
    ]


def digits() -> Portfolio:
    """Five tasks on digits, learned: which one, whether odd, which of the low ones, turned, and shuffled labels."""
    return Portfolio(copy.deepcopy(_learned()))


def empty_graph(portfolio: Portfolio) -> TransferGraph:
    return TransferGraph(t.descriptor for t in portfolio)
