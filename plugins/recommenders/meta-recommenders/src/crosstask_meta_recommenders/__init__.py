"""Recommenders over the meta-learners: cold-start users are tasks."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_meta_recommenders.faces import MAMLRecommender, PrototypicalNetworkRecommender, ReptileRecommender
    from crosstask_meta_recommenders.learned import MAMLUsers, PrototypeUsers, ReptileUsers

__all__ = [
    "MAMLRecommender",
    "MAMLUsers",
    "PrototypeUsers",
    "PrototypicalNetworkRecommender",
    "ReptileRecommender",
    "ReptileUsers",
]

__getattr__ = lazily(
    __name__,
    {
        "MAMLRecommender": "faces",
        "PrototypicalNetworkRecommender": "faces",
        "ReptileRecommender": "faces",
        "MAMLUsers": "learned",
        "PrototypeUsers": "learned",
        "ReptileUsers": "learned",
    },
)
