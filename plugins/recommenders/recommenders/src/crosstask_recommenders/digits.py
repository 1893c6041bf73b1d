"""Handwritten digits as a table of ratings: a small real one for the recipe and for tests."""

from __future__ import annotations

import functools

import numpy as np
import torch

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.tasks import Portfolio
from crosstask_recommenders.support import Interactions


@functools.cache
def _images() -> np.ndarray:
    from sklearn.datasets import load_digits  # deferred: crosstask-digits brings it

    found: np.ndarray = load_digits().data
    return found


def table(users: int | None = None, shown: float = 0.5, seed: int = 0, feedback: str = "explicit") -> Interactions:
    """Images are users, their 64 pixels are items, and the ink of a pixel, 0 to 16, is the user's rating of it.

    Of each image a part `shown` of the pixels is in the table; of implicit feedback those with ink of 8 or more.
    Pixels that are hardly ever inked are items like others. `item_features`: row and column of a pixel, from -1 to 1.
    """
    ink = _images()[:users]
    there = np.random.default_rng([seed, 3]).random(ink.shape) < shown
    if feedback == "implicit":
        there &= ink >= 8
    user, item = np.nonzero(there)
    places = np.stack(np.divmod(np.arange(64), 8), axis=1) / 3.5 - 1
    features = torch.tensor(np.concatenate([np.zeros((1, 2)), places]), dtype=torch.get_default_dtype())
    rating = None if feedback == "implicit" else ink[there]
    return Interactions.of(user + 1, item + 1, rating, users=len(ink), items=64, item_features=features)


def portfolio(users: int | None = None, shown: float = 0.5, seed: int = 0) -> Portfolio:
    """The table as source `ratings` would give it: task `ink`, and `inked` (whether there is ink of 8 or more)."""
    found = table(users, shown, seed)
    assert found.item_features is not None
    rows = found.split(0.1, 0.2, seed=seed)
    features = found.item_features[found.item]
    return Portfolio.from_table(
        MultiInput({"user_ids": found.user, "item_ids": found.item, "item_features": features}),
        {"ink": found.rating, "inked": (found.rating >= 8).long()},
        descriptors={
            "ink": TaskDescriptor(task_id="ink", task_type="regression", output_dim=1),
            "inked": TaskDescriptor(task_id="inked", output_dim=1),
        },
        splits=rows,
        name="pixels of digits",
    )
