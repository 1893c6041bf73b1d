"""Loss weighting."""

from crosstask_weighting.equal import Equal

__all__ = ["Equal"]
