"""A network that grows by a column with each task."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_progressive.network import ProgressiveNetwork
    from crosstask_progressive.progressive import Progressive

__all__ = ["Progressive", "ProgressiveNetwork"]

__getattr__ = lazily(__name__, {"Progressive": "progressive", "ProgressiveNetwork": "network"})
