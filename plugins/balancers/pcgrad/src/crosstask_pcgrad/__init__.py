"""Gradient surgery for multi-task learning."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_pcgrad.pcgrad import PCGrad

__all__ = ["PCGrad"]

__getattr__ = lazily(
    __name__,
    {"PCGrad": "pcgrad"},
)
