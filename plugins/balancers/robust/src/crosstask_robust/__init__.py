"""Aggregators of task gradients that some wrong ones cannot mislead."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_robust.krum import Krum
    from crosstask_robust.trimmed_mean import TrimmedMean

__all__ = ["Krum", "TrimmedMean"]

__getattr__ = lazily(
    __name__,
    {"Krum": "krum", "TrimmedMean": "trimmed_mean"},
)
