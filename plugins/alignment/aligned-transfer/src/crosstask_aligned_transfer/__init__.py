"""Fine-tuning that keeps the target's features like those of the source's inputs."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {"AlignedTransfer": "aligned"}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_aligned_transfer.aligned import AlignedTransfer
