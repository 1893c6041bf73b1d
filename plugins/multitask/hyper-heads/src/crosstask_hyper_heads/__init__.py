"""A hyper-network makes the head of each task from the task's embedding."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_hyper_heads.hyper_heads import GeneratedHeads, Generator, HyperHeads

_PUBLIC = {
    "GeneratedHeads": "hyper_heads",
    "Generator": "hyper_heads",
    "HyperHeads": "hyper_heads",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)
