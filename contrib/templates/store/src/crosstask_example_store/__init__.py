"""A folder of JSON and safetensors files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["ExampleStore"]


def __getattr__(name: str) -> Any:
    # Lazily: listing plugins imports this package, and must not import torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crosstask_example_store import example_store

    return getattr(example_store, name)


if TYPE_CHECKING:
    from crosstask_example_store.example_store import ExampleStore
