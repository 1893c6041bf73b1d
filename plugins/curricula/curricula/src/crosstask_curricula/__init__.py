"""Curriculum strategies."""

from crosstask_curricula.adaptive_difficulty import AdaptiveDifficulty
from crosstask_curricula.diverse_sampling import DiverseSampling
from crosstask_curricula.easy_to_hard import EasyToHard
from crosstask_curricula.transfer_potential import TransferPotential
from crosstask_curricula.uncertainty_driven import UncertaintyDriven

__all__ = ["AdaptiveDifficulty", "DiverseSampling", "EasyToHard", "TransferPotential", "UncertaintyDriven"]
