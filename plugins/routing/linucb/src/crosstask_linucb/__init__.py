"""Linear upper confidence bounds for routing."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_linucb.discounted import DiscountedLinUCB
    from crosstask_linucb.linucb import LinUCB

__all__ = ["DiscountedLinUCB", "LinUCB"]

__getattr__ = lazily(__name__, {"DiscountedLinUCB": "discounted", "LinUCB": "linucb"})
