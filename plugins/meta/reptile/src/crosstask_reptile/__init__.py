"""Meta-learning by moving toward the weights of trained tasks."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_reptile.reptile import Reptile

__all__ = ["Reptile"]

__getattr__ = lazily(__name__, {"Reptile": "reptile"})
