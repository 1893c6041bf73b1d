"""Trains the biases of a frozen model."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {"BitFit": "bitfit"}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_bitfit.bitfit import BitFit
