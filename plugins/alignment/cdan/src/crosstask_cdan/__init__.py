"""A critic of features and predictions together, its gradient reversed."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {"CDAN": "cdan", "ConditionalCritic": "cdan"}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_cdan.cdan import CDAN, ConditionalCritic
