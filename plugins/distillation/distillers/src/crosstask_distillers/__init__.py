"""What several tasks have in common, and giving it to another model."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_distillers.alignment import align
    from crosstask_distillers.distiller import MetaKnowledgeDistiller
    from crosstask_distillers.prior import WeightPrior, prior_penalty
    from crosstask_distillers.representation import Representation
    from crosstask_distillers.strategy import Strategy, train_with

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
