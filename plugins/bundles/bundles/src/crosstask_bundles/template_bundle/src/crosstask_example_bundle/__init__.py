"""What was measured between some tasks."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_bundle.example_bundle import ExampleBundle

__all__ = ["ExampleBundle"]

__getattr__ = lazily(__name__, {"ExampleBundle": "example_bundle"})
