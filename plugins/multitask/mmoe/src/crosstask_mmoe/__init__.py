"""Multi-gate mixture of experts."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_mmoe.mmoe import MMoE

_PUBLIC = {"MMoE": "mmoe"}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)
