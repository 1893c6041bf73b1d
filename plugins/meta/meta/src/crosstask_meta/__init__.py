"""Meta-learning and few-shot learning: samplers of episodes, batched inner loops, the few-shot stage."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_meta.batched import Batched
    from crosstask_meta.few_shot import run_few_shot
    from crosstask_meta.samplers import EpisodeSampler, create_meta_batch, split_classes, split_groups
    from crosstask_meta.trainer import BaseMetaLearner

__all__ = [
    "BaseMetaLearner",
    "Batched",
    "EpisodeSampler",
    "create_meta_batch",
    "run_few_shot",
    "split_classes",
    "split_groups",
]

__getattr__ = lazily(
    __name__,
    {
        "BaseMetaLearner": "trainer",
        "Batched": "batched",
        "EpisodeSampler": "samplers",
        "create_meta_batch": "samplers",
        "run_few_shot": "few_shot",
        "split_classes": "samplers",
        "split_groups": "samplers",
    },
)
