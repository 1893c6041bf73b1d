"""Joint training of several tasks: sharing, sampling, the trainer."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_multitask.compatible import compatible_tasks
    from crosstask_multitask.heads import head_for
    from crosstask_multitask.records import MultiTaskResult
    from crosstask_multitask.sampler import History, Sampler
    from crosstask_multitask.sharing import MultiTaskModule, Sharing
    from crosstask_multitask.stage import Multitask
    from crosstask_multitask.trainer import MultiTaskTrainer

_PUBLIC = {
    "History": "sampler",
    "MultiTaskModule": "sharing",
    "MultiTaskResult": "records",
    "MultiTaskTrainer": "trainer",
    "Multitask": "stage",
    "Sampler": "sampler",
    "Sharing": "sharing",
    "compatible_tasks": "compatible",
    "head_for": "heads",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)
