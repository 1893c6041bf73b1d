"""Domains have the same quantiles of every feature."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_alignment.example_alignment import ExampleAlignment

__all__ = ["ExampleAlignment"]

__getattr__ = lazily(__name__, {"ExampleAlignment": "example_alignment"})
