"""Jobs on Ray."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_ray.executor import RayExecutor

__all__ = ["RayExecutor"]

__getattr__ = lazily(__name__, {"RayExecutor": "executor"})
