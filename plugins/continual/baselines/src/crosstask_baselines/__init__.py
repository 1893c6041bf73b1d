"""What strategies against forgetting are compared with."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_baselines.joint import Joint
    from crosstask_baselines.naive import Naive

__all__ = ["Joint", "Naive"]

__getattr__ = lazily(__name__, {"Joint": "joint", "Naive": "naive"})
