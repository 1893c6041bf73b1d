"""Models for unseen tasks as ensembles."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crosstask_ensemble.weighted_ensemble import WeightedEnsemble

__all__ = ["WeightedEnsemble"]


def __getattr__(name: str) -> Any:
    if name == "WeightedEnsemble":
        from crosstask_ensemble.weighted_ensemble import WeightedEnsemble  # deferred: imports torch

        return WeightedEnsemble
    raise AttributeError(f"module 'crosstask_ensemble' has no attribute {name!r}")
