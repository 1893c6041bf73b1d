"""Attention whose movement can be predicted, and whose slots differ."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_predictive.predictive import Predictive

__all__ = ["Predictive"]

__getattr__ = lazily(__name__, {"Predictive": "predictive"})
