"""Rotation-based gradient balancing."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_rgb.rgb import RGB

__all__ = ["RGB"]

__getattr__ = lazily(
    __name__,
    {"RGB": "rgb"},
)
