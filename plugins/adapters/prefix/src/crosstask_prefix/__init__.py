"""Learned keys and values in front of those of attention layers."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {"Prefix": "prefix"}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_prefix.prefix import Prefix
