"""The best tool so far in the nearest context."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_router.example_router import ExampleRouter

__all__ = ["ExampleRouter"]

__getattr__ = lazily(__name__, {"ExampleRouter": "example_router"})
