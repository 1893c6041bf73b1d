"""Joint training of several tasks: sharing, sampling, the trainer."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_multitask.compatible import compatible_tasks
    from crosstask_multitask.faces import (
        HardParameterSharing,
        MetaLearningMultiTask,
        MultiTaskBase,
        ProgressiveMultiTask,
        SoftParameterSharing,
    )
    from crosstask_multitask.heads import head_for
    from crosstask_multitask.losses import MultiTaskLoss
    from crosstask_multitask.records import MultiTaskResult
    from crosstask_multitask.sampler import History, Sampler
    from crosstask_multitask.scheduling import AdaptiveTaskScheduler
    from crosstask_multitask.sharing import MultiTaskModule, Sharing, SharingMatrix
    from crosstask_multitask.stage import Multitask
    from crosstask_multitask.trainer import MultiTaskTrainer

_PUBLIC = {
    "AdaptiveTaskScheduler": "scheduling",
    "HardParameterSharing": "faces",
    "History": "sampler",
    "MetaLearningMultiTask": "faces",
    "MultiTaskBase": "faces",
    "MultiTaskLoss": "losses",
    "MultiTaskModule": "sharing",
    "MultiTaskResult": "records",
    "MultiTaskTrainer": "trainer",
    "Multitask": "stage",
    "ProgressiveMultiTask": "faces",
    "Sampler": "sampler",
    "Sharing": "sharing",
    "SharingMatrix": "sharing",
    "SoftParameterSharing": "faces",
    "compatible_tasks": "compatible",
    "head_for": "heads",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)
