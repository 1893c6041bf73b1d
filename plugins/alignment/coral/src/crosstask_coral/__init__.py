"""The difference of the covariances of features."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {"CORAL": "coral", "coral_loss": "coral"}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_coral.coral import CORAL, coral_loss
