"""Models for unseen tasks by analogy."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_analogy.analogy_transfer import AnalogyTransfer
    from crosstask_analogy.embedding import Analogy, best_analogies

__all__ = ["Analogy", "AnalogyTransfer", "best_analogies"]

__getattr__ = lazily(
    __name__,
    {"Analogy": "embedding", "AnalogyTransfer": "analogy_transfer", "best_analogies": "embedding"},
)
