"""Multi-task attention network."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_mtan.mtan import MTAN

_PUBLIC = {"MTAN": "mtan"}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)
