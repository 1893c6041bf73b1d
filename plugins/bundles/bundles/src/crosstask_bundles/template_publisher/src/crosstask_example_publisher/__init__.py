"""A folder for each licence."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_publisher.example_publisher import ExamplePublisher

__all__ = ["ExamplePublisher"]

__getattr__ = lazily(__name__, {"ExamplePublisher": "example_publisher"})
