"""Tasks on scikit-learn's images of handwritten digits."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crosstask_digits.digits import Digits

__all__ = ["Digits"]


def __getattr__(name: str) -> Any:
    if name == "Digits":
        from crosstask_digits.digits import Digits  # deferred: imports scikit-learn

        return Digits
    raise AttributeError(f"module 'crosstask_digits' has no attribute {name!r}")
