"""A score that forgives."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_example_family.example_example_family import ExampleExampleFamily

__all__ = ["ExampleExampleFamily"]

__getattr__ = lazily(__name__, {"ExampleExampleFamily": "example_example_family"})
