"""Transfer by adapters."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {"AdapterTransfer": "adapter"}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_adapter_tuning.adapter import AdapterTransfer
