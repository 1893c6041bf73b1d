"""Handwritten digits whose images change one day: a portfolio for recipes, examples and tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, nearest
from crosstask.tasks import Portfolio, Task

CHANGES = ("inverted", "turned", "dim", "noisy")
"""What images may become: light on dark, turned by a quarter, of a third of the contrast, with a little noise."""
CLASSES = tuple("0123456789")


def portfolio(seed: int = 0, changes: tuple[str, ...] = CHANGES) -> Portfolio:
    """Tasks `digits` (600 images to train on, 200 for validation, 400 for the test), `parity` and `loop` on the same
    images, and held back as unseen each of `changes`: the same ten digits on 397 images of its own to learn from and
    200 for the test, which are in no split of the others.
    """
    from sklearn.datasets import load_digits  # deferred: not all who monitor want scikit-learn

    for name in changes:
        if name not in CHANGES:
            raise DataError(f"digits that change: no change {name!r}{nearest(name, CHANGES)}")
    raw, rng = load_digits(), np.random.default_rng(seed)
    order = rng.permutation(len(raw.target))
    images = torch.tensor(raw.images[order] / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(raw.target[order], dtype=torch.long)
    generator = torch.Generator().manual_seed(seed)
    cuts = {"train": slice(0, 600), "validation": slice(600, 800), "test": slice(800, 1200)}
    later = {"train": slice(1200, 1597), "test": slice(1597, 1797)}
    views: dict[str, Tensor] = {
        "inverted": 1 - images, "turned": images.rot90(1, (2, 3)), "dim": images / 3,
        "noisy": (images + 0.05 * torch.randn(images.shape, generator=generator)).clamp(0, 1),
    }  # fmt: skip
    targets = {"digits": labels, "parity": labels % 2, "loop": torch.isin(labels, torch.tensor([0, 6, 8, 9])).long()}
    names = {"digits": CLASSES, "parity": ("even", "odd"), "loop": ("no loop", "loop")}
    known = [_task(name, images, own, names[name], cuts, 0.3) for name, own in targets.items()]
    unseen = [_task(name, views[name], labels, CLASSES, later, 0.4) for name in changes]
    return Portfolio(known, unseen=unseen, name="digits that change")


def _task(name: str, images: Tensor, labels: Tensor, classes: tuple[str, ...], cuts: Any, complexity: float) -> Task:
    described = TaskDescriptor(
        task_id=name, domain="digits", input_shape=(1, 8, 8), output_dim=len(classes), classes=classes,
        complexity=complexity,
    )  # fmt: skip
    splits: dict[str, Any] = {split: (images[own], labels[own]) for split, own in cuts.items()}
    return Task(descriptor=described, **splits)
