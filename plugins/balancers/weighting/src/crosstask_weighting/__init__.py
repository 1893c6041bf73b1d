"""Loss weighting."""

from crosstask_weighting.dwa import DWA
from crosstask_weighting.equal import Equal
from crosstask_weighting.famo import FAMO
from crosstask_weighting.fixed import Fixed
from crosstask_weighting.gls import GLS
from crosstask_weighting.imtl_l import IMTLL
from crosstask_weighting.rlw import RLW
from crosstask_weighting.scale_invariant import ScaleInvariant
from crosstask_weighting.stch import STCH
from crosstask_weighting.uncertainty import Uncertainty

__all__ = [
    "DWA",
    "FAMO",
    "GLS",
    "IMTLL",
    "RLW",
    "STCH",
    "Equal",
    "Fixed",
    "ScaleInvariant",
    "Uncertainty",
]
