"""Scales the outputs of linear layers."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_adapter.example_adapter import ExampleAdapter

__all__ = ["ExampleAdapter"]

__getattr__ = lazily(__name__, {"ExampleAdapter": "example_adapter"})
