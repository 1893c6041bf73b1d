"""Trusts uncertain edges less."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_wrapper.example_wrapper import ExampleWrapper

__all__ = ["ExampleWrapper"]

__getattr__ = lazily(__name__, {"ExampleWrapper": "example_wrapper"})
