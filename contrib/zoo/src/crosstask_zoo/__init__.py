"""Which of these saved models fits my data."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_zoo.cache import FeatureCache
    from crosstask_zoo.images import ImageInput
    from crosstask_zoo.ranking import Ranked, Ranking
    from crosstask_zoo.saved import Saved, SavedModels
    from crosstask_zoo.source import ZooSource
    from crosstask_zoo.transformers_models import TransformersModels, TransformersTrunk
    from crosstask_zoo.trunk import Given, Trunk, ZooModel
    from crosstask_zoo.zoo import Zoo

__all__ = [
    "FeatureCache",
    "Given",
    "ImageInput",
    "Ranked",
    "Ranking",
    "Saved",
    "SavedModels",
    "TransformersModels",
    "TransformersTrunk",
    "Trunk",
    "Zoo",
    "ZooModel",
    "ZooSource",
]

__getattr__ = lazily(
    __name__,
    {
        "FeatureCache": "cache",
        "Given": "trunk",
        "ImageInput": "images",
        "Ranked": "ranking",
        "Ranking": "ranking",
        "Saved": "saved",
        "SavedModels": "saved",
        "TransformersModels": "transformers_models",
        "TransformersTrunk": "transformers_models",
        "Trunk": "trunk",
        "Zoo": "zoo",
        "ZooModel": "trunk",
        "ZooSource": "source",
    },
)
