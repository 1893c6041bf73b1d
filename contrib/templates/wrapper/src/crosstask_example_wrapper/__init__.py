"""Trusts uncertain edges less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["ExampleWrapper"]


def __getattr__(name: str) -> Any:
    # Lazily: listing plugins imports this package, and must not import torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crosstask_example_wrapper import example_wrapper

    return getattr(example_wrapper, name)


if TYPE_CHECKING:
    from crosstask_example_wrapper.example_wrapper import ExampleWrapper
