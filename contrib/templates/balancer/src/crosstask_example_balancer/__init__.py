"""Weighs task gradients by a power of their lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["ExampleBalancer"]


def __getattr__(name: str) -> Any:
    # Lazily: listing plugins imports this package, and must not import torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crosstask_example_balancer import example_balancer

    return getattr(example_balancer, name)


if TYPE_CHECKING:
    from crosstask_example_balancer.example_balancer import ExampleBalancer
