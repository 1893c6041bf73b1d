"""Replays the hardest samples of earlier tasks."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_continual.example_continual import ExampleContinual

__all__ = ["ExampleContinual"]

__getattr__ = lazily(__name__, {"ExampleContinual": "example_continual"})
