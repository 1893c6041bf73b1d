"""The head first, then everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["ExampleTransfer"]


def __getattr__(name: str) -> Any:
    # Lazily: listing plugins imports this package, and must not import torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crosstask_example_transfer import example_transfer

    return getattr(example_transfer, name)


if TYPE_CHECKING:
    from crosstask_example_transfer.example_transfer import ExampleTransfer
