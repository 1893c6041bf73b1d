"""Writes what happens to a file, a line of JSON each."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_observer.example_observer import ExampleObserver

__all__ = ["ExampleObserver"]

__getattr__ = lazily(__name__, {"ExampleObserver": "example_observer"})
