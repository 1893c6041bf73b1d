"""Weighs task gradients by a power of their lengths."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_balancer.example_balancer import ExampleBalancer

__all__ = ["ExampleBalancer"]

__getattr__ = lazily(__name__, {"ExampleBalancer": "example_balancer"})
