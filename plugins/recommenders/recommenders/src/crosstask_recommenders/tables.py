"""The table of interactions that a task holds."""

from __future__ import annotations

import torch

from crosstask.errors import DataError, nearest
from crosstask.tasks import SPLITS, Task
from crosstask_recommenders.support import Interactions

USER, ITEM, FEATURES = "user_ids", "item_ids", "item_features"
"""Names of the inputs of such a task."""


def interactions_of(task: Task) -> Interactions:
    """All rows of a task whose inputs are `user_ids` and `item_ids` [N] (and perhaps `item_features` [N, F]), as
    source `ratings` makes them: of a regression ratings, of a classification of two classes those of class 1.

    DataError for a task with other inputs, or of more than two classes.
    """
    if task.descriptor.task_type == "classification" and (task.descriptor.output_dim or 0) > 2:
        raise DataError(
            f"task {task.task_id!r} has {task.descriptor.output_dim} classes: interactions are ratings (a regression) "
            "or of two classes, taken and not"
        )
    read = [task.data(split) for split in SPLITS if task.has_data(split)]
    who = f"task {task.task_id!r}"
    if not read:
        raise DataError(f"{who} has no data: interactions are needed")
    parts: list[dict[str, torch.Tensor]] = [getattr(data.inputs, "parts", {}) for data in read]
    for name in (USER, ITEM):
        if name not in parts[0]:
            raise DataError(f"{who} holds no interactions: it has no input {name!r}{nearest(name, parts[0])}")
    named = {name: torch.cat([own[name] for own in parts]) for name in parts[0]}
    targets = torch.cat([data.targets for data in read]).reshape(len(named[USER]), -1)
    if targets.shape[1] != 1:
        raise DataError(f"{who} has {targets.shape[1]} targets of each row; one rating is needed")
    values, explicit = targets[:, 0], task.descriptor.task_type == "regression"
    items = int(named[ITEM].max())
    features = None
    if FEATURES in named:
        features = torch.zeros(items + 1, named[FEATURES].shape[1])
        features[named[ITEM].flip(0)] = named[FEATURES].flip(0)
        features[0] = 0
    kept = torch.ones_like(values, dtype=torch.bool) if explicit else values == 1
    return Interactions.of(
        named[USER][kept], named[ITEM][kept], values[kept] if explicit else None, users=int(named[USER].max()),
        items=items, item_features=features,
    )  # fmt: skip
