"""Linear Thompson sampling for routing."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_thompson.thompson import LinearThompson

__all__ = ["LinearThompson"]

__getattr__ = lazily(__name__, {"LinearThompson": "thompson"})
