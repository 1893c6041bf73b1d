"""Tasks from tables: a folder of files with a manifest."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_tabular.tabular import Tabular

__all__ = ["Tabular"]

__getattr__ = lazily(__name__, {"Tabular": "tabular"})
