"""Progressive layered extraction."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_ple.extraction import Extraction
    from crosstask_ple.ple import CGC, PLE

_PUBLIC = {"CGC": "ple", "Extraction": "extraction", "PLE": "ple"}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)
