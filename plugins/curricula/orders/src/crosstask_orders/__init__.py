"""Curriculum strategies."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_orders.adaptive_difficulty import AdaptiveDifficulty
    from crosstask_orders.diverse_sampling import DiverseSampling
    from crosstask_orders.easy_to_hard import EasyToHard
    from crosstask_orders.transfer_potential import TransferPotential
    from crosstask_orders.uncertainty_driven import UncertaintyDriven

__all__ = ["AdaptiveDifficulty", "DiverseSampling", "EasyToHard", "TransferPotential", "UncertaintyDriven"]

__getattr__ = lazily(
    __name__,
    {
        "AdaptiveDifficulty": "adaptive_difficulty",
        "DiverseSampling": "diverse_sampling",
        "EasyToHard": "easy_to_hard",
        "TransferPotential": "transfer_potential",
        "UncertaintyDriven": "uncertainty_driven",
    },
)
