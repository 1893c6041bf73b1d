"""Sparse selection of experts."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_dselect_k.dselect_k import DSelectK
    from crosstask_dselect_k.gate import SelectorGate

_PUBLIC = {"DSelectK": "dselect_k", "SelectorGate": "gate"}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)
