"""Meta-learning and few-shot learning: learners with the model in hand, samplers of episodes, the few-shot stage."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_meta.demo import run_meta_learning_demo
    from crosstask_meta.faces import ANIL, MAML, MAMLFirstOrder, MetaSGD, MultiTaskMAML, Reptile
    from crosstask_meta.few_shot import run_few_shot
    from crosstask_meta.metrics import adaptation_curve, adaptation_speed, parameter_efficiency, sample_efficiency
    from crosstask_meta.samplers import EpisodeSampler, create_meta_batch, split_classes, split_groups
    from crosstask_meta.trainer import BaseMetaLearner

_MODULES = {
    "demo": ("run_meta_learning_demo",),
    "faces": ("ANIL", "MAML", "MAMLFirstOrder", "MetaSGD", "MultiTaskMAML", "Reptile"),
    "few_shot": ("run_few_shot",),
    "metrics": ("adaptation_curve", "adaptation_speed", "parameter_efficiency", "sample_efficiency"),
    "samplers": ("EpisodeSampler", "create_meta_batch", "split_classes", "split_groups"),
    "trainer": ("BaseMetaLearner",),
}

__all__ = [
    "ANIL",
    "MAML",
    "BaseMetaLearner",
    "EpisodeSampler",
    "MAMLFirstOrder",
    "MetaSGD",
    "MultiTaskMAML",
    "Reptile",
    "adaptation_curve",
    "adaptation_speed",
    "create_meta_batch",
    "parameter_efficiency",
    "run_few_shot",
    "run_meta_learning_demo",
    "sample_efficiency",
    "split_classes",
    "split_groups",
]

__getattr__ = lazily(__name__, {name: module for module, names in _MODULES.items() for name in names})
