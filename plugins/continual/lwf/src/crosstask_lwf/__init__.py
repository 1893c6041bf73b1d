"""The earlier model as a teacher."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_lwf.lwf import LwF

__all__ = ["LwF"]

__getattr__ = lazily(__name__, {"LwF": "lwf"})
