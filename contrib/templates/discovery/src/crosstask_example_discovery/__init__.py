"""Compares the class names of tasks."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_discovery.example_discovery import ExampleDiscovery

__all__ = ["ExampleDiscovery"]

__getattr__ = lazily(__name__, {"ExampleDiscovery": "example_discovery"})
