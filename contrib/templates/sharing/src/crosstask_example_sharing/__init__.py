"""A shared trunk and a small network per task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["ExampleSharing"]


def __getattr__(name: str) -> Any:
    # Lazily: listing plugins imports this package, and must not import torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crosstask_example_sharing import example_sharing

    return getattr(example_sharing, name)


if TYPE_CHECKING:
    from crosstask_example_sharing.example_sharing import ExampleSharing
