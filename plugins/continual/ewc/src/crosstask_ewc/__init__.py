"""Quadratic penalties from the importance of weights."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_ewc.ewc import EWC
    from crosstask_ewc.mas import MAS

__all__ = ["EWC", "MAS"]

__getattr__ = lazily(__name__, {"EWC": "ewc", "MAS": "mas"})
