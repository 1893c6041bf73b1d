"""For tests of transfer methods: real digits in several views, and models that have learned them."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import torch

from crosstask.descriptors import TaskDescriptor
from crosstask.learning.models import ModelSpec
from crosstask.learning.training import fit
from crosstask.records import Budget
from crosstask.tasks import Task

TEN = tuple(range(10))


@functools.cache
def digits(view: str = "plain", keep: tuple[int, ...] = TEN, *, parity: bool = False) -> Task:
    """scikit-learn's digits, 40 % of them to train on, 20 % for validation, and 40 % for the test.

    Views: `plain`, `dim` (half the contrast), `faded` (a third of it), `permuted` (its pixels in another order). Only
    the digits in `keep`, labelled 0, 1, … in that order, or with `parity` as even and odd.
    """
    from sklearn.datasets import load_digits  # deferred: not all who test a transfer want scikit-learn

    raw = load_digits()
    order = np.random.default_rng(0).permutation(len(raw.target))
    images, labels = torch.tensor(raw.images[order] / 16, dtype=torch.float32), torch.tensor(raw.target[order])
    if view == "dim":
        images = 0.25 + images / 2
    if view == "faded":
        images = 2 / 3 + images / 3
    if view == "permuted":
        images = images.flatten(1)[:, np.random.default_rng(1).permutation(64)].view_as(images)
    chosen = torch.isin(labels, torch.tensor(keep))
    images, labels = images[chosen][:, None], labels[chosen]
    labels = labels % 2 if parity else torch.searchsorted(torch.tensor(keep), labels)
    classes = ("even", "odd") if parity else tuple(map(str, keep))
    one, two = 2 * len(labels) // 5, 3 * len(labels) // 5
    parts = {"train": slice(0, one), "validation": slice(one, two), "test": slice(two, None)}
    splits: dict[str, Any] = {name: (images[part], labels[part]) for name, part in parts.items()}
    descriptor = TaskDescriptor(
        task_id=f"{view}-parity" if parity else f"{view}-{len(keep)}",
        input_shape=(1, 8, 8),
        output_dim=len(classes),
        classes=classes,
    )
    return Task(descriptor=descriptor, **splits)


@functools.cache
def trained_digits(view: str = "plain", keep: tuple[int, ...] = TEN) -> Task:
    """The same with a model that has learned it."""
    task = copy.copy(digits(view, keep))
    task.model = ModelSpec(hidden=(64, 64)).build(task.descriptor, seed=0)
    fit(task.model, task, Budget(steps=300, learning_rate=3e-3), torch.Generator().manual_seed(0), curve_split=None)
    return task
