"""Writes what happens to a file, a line of JSON each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["ExampleObserver"]


def __getattr__(name: str) -> Any:
    # Lazily: listing plugins imports this package, and must not import torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crosstask_example_observer import example_observer

    return getattr(example_observer, name)


if TYPE_CHECKING:
    from crosstask_example_observer.example_observer import ExampleObserver
