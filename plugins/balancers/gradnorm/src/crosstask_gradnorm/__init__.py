"""Gradient normalisation."""

from crosstask_gradnorm.gradnorm import GradNorm

__all__ = ["GradNorm"]
