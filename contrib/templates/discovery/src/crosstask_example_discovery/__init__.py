"""Compares the class names of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["ExampleDiscovery"]


def __getattr__(name: str) -> Any:
    # Lazily: listing plugins imports this package, and must not import torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crosstask_example_discovery import example_discovery

    return getattr(example_discovery, name)


if TYPE_CHECKING:
    from crosstask_example_discovery.example_discovery import ExampleDiscovery
