"""Most helpful task last, right before the target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["ExampleCurriculum"]


def __getattr__(name: str) -> Any:
    # Lazily: listing plugins imports this package, and must not import torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crosstask_example_curriculum import example_curriculum

    return getattr(example_curriculum, name)


if TYPE_CHECKING:
    from crosstask_example_curriculum.example_curriculum import ExampleCurriculum
