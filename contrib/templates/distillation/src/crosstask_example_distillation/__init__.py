"""The mean weights of trained models, as a prior."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["ExampleDistillation"]


def __getattr__(name: str) -> Any:
    # Lazily: listing plugins imports this package, and must not import torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crosstask_example_distillation import example_distillation

    return getattr(example_distillation, name)


if TYPE_CHECKING:
    from crosstask_example_distillation.example_distillation import ExampleDistillation
