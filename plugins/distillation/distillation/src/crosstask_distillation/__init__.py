"""What several tasks have in common, and giving it to another model."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_distillation.alignment import align
    from crosstask_distillation.distiller import MetaKnowledgeDistiller
    from crosstask_distillation.prior import WeightPrior, prior_penalty
    from crosstask_distillation.representation import Representation
    from crosstask_distillation.strategy import Strategy, train_with

__all__ = [
    "MetaKnowledgeDistiller",
    "Representation",
    "Strategy",
    "WeightPrior",
    "align",
    "prior_penalty",
    "train_with",
]

__getattr__ = lazily(
    __name__,
    {
        "MetaKnowledgeDistiller": "distiller",
        "Representation": "representation",
        "Strategy": "strategy",
        "WeightPrior": "prior",
        "align": "alignment",
        "prior_penalty": "prior",
        "train_with": "strategy",
    },
)
