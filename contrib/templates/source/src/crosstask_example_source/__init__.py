"""Tasks about points in the plane."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_source.example_source import ExampleSource

__all__ = ["ExampleSource"]

__getattr__ = lazily(__name__, {"ExampleSource": "example_source"})
