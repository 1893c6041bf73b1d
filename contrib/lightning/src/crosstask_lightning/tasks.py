"""Tasks from `LightningDataModule`s."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crosstask import Portfolio, Task
from crosstask.errors import DataError
from crosstask_lightning.library import lightning

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule


def tasks_from_datamodules(modules: Mapping[str, LightningDataModule], **options: Any) -> Portfolio:
    """A task of each module, by task name: its loaders of `fit` are the splits train and validation, that of `test`, if
    it has one, is test. `options` are those of every `Task` (`inputs`, `target`, …).

    DataError where a module has several loaders for a split, or none to train with.
    """
    tasks = []
    for name, module in modules.items():
        module.prepare_data()
        splits: dict[str, Any] = {}
        for stage, split, loader in (("fit", "train", "train"), ("fit", "validation", "val"), ("test", "test", "test")):
            own = f"{loader}_dataloader"
            if getattr(type(module), own) is getattr(lightning().LightningDataModule, own):
                continue
            if split != "validation":
                module.setup(stage)
            found = getattr(module, own)()
            if isinstance(found, list | tuple):
                if len(found) != 1:
                    raise DataError(f"{own} of {name!r} gives {len(found)} loaders: make a module of each task")
                (found,) = found
            splits[split] = found
        if "train" not in splits:
            raise DataError(f"the data module of {name!r} has no train_dataloader")
        tasks.append(Task(descriptor=name, **splits, **options))
    return Portfolio(tasks)
