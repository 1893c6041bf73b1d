"""Mean of the models that know the new task's classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["ExampleSynthesis"]


def __getattr__(name: str) -> Any:
    # Lazily: listing plugins imports this package, and must not import torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crosstask_example_synthesis import example_synthesis

    return getattr(example_synthesis, name)


if TYPE_CHECKING:
    from crosstask_example_synthesis.example_synthesis import ExampleSynthesis
