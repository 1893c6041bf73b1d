"""Runs jobs in threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["ExampleExecutor"]


def __getattr__(name: str) -> Any:
    # Lazily: listing plugins imports this package, and must not import torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crosstask_example_executor import example_executor

    return getattr(example_executor, name)


if TYPE_CHECKING:
    from crosstask_example_executor.example_executor import ExampleExecutor
