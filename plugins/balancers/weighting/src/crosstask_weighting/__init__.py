"""Loss weighting."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_weighting.cosmos import COSMOS
    from crosstask_weighting.dwa import DWA
    from crosstask_weighting.equal import Equal
    from crosstask_weighting.famo import FAMO
    from crosstask_weighting.fixed import Fixed
    from crosstask_weighting.gls import GLS
    from crosstask_weighting.imtl_l import IMTLL
    from crosstask_weighting.pbi import PBI
    from crosstask_weighting.rlw import RLW
    from crosstask_weighting.scale_invariant import ScaleInvariant
    from crosstask_weighting.stch import STCH
    from crosstask_weighting.uncertainty import Uncertainty

__all__ = [
    "COSMOS",
    "DWA",
    "FAMO",
    "GLS",
    "IMTLL",
    "PBI",
    "RLW",
    "STCH",
    "Equal",
    "Fixed",
    "ScaleInvariant",
    "Uncertainty",
]

__getattr__ = lazily(
    __name__,
    {
        "PBI": "pbi",
        "COSMOS": "cosmos",
        "DWA": "dwa",
        "Equal": "equal",
        "FAMO": "famo",
        "Fixed": "fixed",
        "GLS": "gls",
        "IMTLL": "imtl_l",
        "RLW": "rlw",
        "ScaleInvariant": "scale_invariant",
        "STCH": "stch",
        "Uncertainty": "uncertainty",
    },
)
