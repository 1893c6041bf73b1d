"""The head first, then everything."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_transfer.example_transfer import ExampleTransfer

__all__ = ["ExampleTransfer"]

__getattr__ = lazily(__name__, {"ExampleTransfer": "example_transfer"})
