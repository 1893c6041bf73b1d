"""Tasks about points in the plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["ExampleSource"]


def __getattr__(name: str) -> Any:
    # Lazily: listing plugins imports this package, and must not import torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crosstask_example_source import example_source

    return getattr(example_source, name)


if TYPE_CHECKING:
    from crosstask_example_source.example_source import ExampleSource
