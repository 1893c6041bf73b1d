"""Reconstruction through a vector-quantised bottleneck."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_perceiver.perceiver import Perceiver

__all__ = ["Perceiver"]

__getattr__ = lazily(__name__, {"Perceiver": "perceiver"})
