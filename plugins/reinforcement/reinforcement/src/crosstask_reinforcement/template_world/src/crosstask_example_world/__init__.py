"""Corridors of different lengths to walk to the right."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_world.example_world import ExampleWorld

__all__ = ["ExampleWorld"]

__getattr__ = lazily(__name__, {"ExampleWorld": "example_world"})
