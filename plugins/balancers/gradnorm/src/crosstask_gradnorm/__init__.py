"""Gradient normalisation."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_gradnorm.gradnorm import GradNorm

__all__ = ["GradNorm"]

__getattr__ = lazily(
    __name__,
    {"GradNorm": "gradnorm"},
)
