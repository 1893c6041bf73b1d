"""Rotation-based gradient balancing."""

from crosstask_rgb.rgb import RGB

__all__ = ["RGB"]
