"""Frames whose changes are reconstructed, and states that change little."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_loss.example_loss import ExampleLoss

__all__ = ["ExampleLoss"]

__getattr__ = lazily(__name__, {"ExampleLoss": "example_loss"})
