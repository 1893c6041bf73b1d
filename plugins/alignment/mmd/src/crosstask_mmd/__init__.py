"""The maximum mean discrepancy of features, over several bandwidths."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {"MMD": "mmd"}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_mmd.mmd import MMD
