"""Few-shot classification by comparing features."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_fewshot.learner import FewShotLearner
    from crosstask_fewshot.matching import MatchingNetwork
    from crosstask_fewshot.prototypical import PrototypicalNetwork
    from crosstask_fewshot.relation import RelationNetwork

__all__ = ["FewShotLearner", "MatchingNetwork", "PrototypicalNetwork", "RelationNetwork"]

__getattr__ = lazily(
    __name__,
    {
        "FewShotLearner": "learner",
        "MatchingNetwork": "matching",
        "PrototypicalNetwork": "prototypical",
        "RelationNetwork": "relation",
    },
)
