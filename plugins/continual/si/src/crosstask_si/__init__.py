"""Importance of weights from the path of training."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_si.si import SI

__all__ = ["SI"]

__getattr__ = lazily(__name__, {"SI": "si"})
