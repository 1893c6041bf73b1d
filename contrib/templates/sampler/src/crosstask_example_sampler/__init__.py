"""Draws tasks with a large loss more often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["ExampleSampler"]


def __getattr__(name: str) -> Any:
    # Lazily: listing plugins imports this package, and must not import torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crosstask_example_sampler import example_sampler

    return getattr(example_sampler, name)


if TYPE_CHECKING:
    from crosstask_example_sampler.example_sampler import ExampleSampler
