"""Relationship discovery: the stage, the machinery of transferability estimators, what discoverers say of a pair."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_discovery.estimator import Estimator, Seen
    from crosstask_discovery.pairs import edge_between
    from crosstask_discovery.records import DiscoveryResult, MeasuredPair
    from crosstask_discovery.stage import Discovery

__all__ = ["Discovery", "DiscoveryResult", "Estimator", "MeasuredPair", "Seen", "edge_between"]

__getattr__ = lazily(
    __name__,
    {
        "Discovery": "stage",
        "DiscoveryResult": "records",
        "Estimator": "estimator",
        "MeasuredPair": "records",
        "Seen": "estimator",
        "edge_between": "pairs",
    },
)
