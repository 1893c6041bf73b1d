"""Yardsticks of recommendation."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_baseline_recommenders.bpr import BPRMF
    from crosstask_baseline_recommenders.factorisation import BiasedMF
    from crosstask_baseline_recommenders.means import GlobalMean, ItemMean, UserMean
    from crosstask_baseline_recommenders.popularity import Popularity

__all__ = ["BPRMF", "BiasedMF", "GlobalMean", "ItemMean", "Popularity", "UserMean"]

__getattr__ = lazily(
    __name__,
    {
        "BPRMF": "bpr",
        "BiasedMF": "factorisation",
        "GlobalMean": "means",
        "ItemMean": "means",
        "Popularity": "popularity",
        "UserMean": "means",
    },
)
