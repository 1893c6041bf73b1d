"""Lightning: several losses of a `LightningModule`, balanced by a callback; tasks from `LightningDataModule`s."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {
    "Balance": "callback",
    "tasks_from_datamodules": "tasks",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_lightning.callback import Balance
    from crosstask_lightning.tasks import tasks_from_datamodules
