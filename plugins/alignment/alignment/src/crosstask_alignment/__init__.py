"""Domain alignment: features that do not tell which domain they come from."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {
    "GradientReversalLayer": "reversal",
    "mmd": "discrepancies",
    "reversal_strength": "reversal",
    "squared_distances": "discrepancies",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_alignment.discrepancies import mmd, squared_distances
    from crosstask_alignment.reversal import GradientReversalLayer, reversal_strength
