"""A column for each task, which takes of the columns before it and changes nothing in them."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_progressive_columns.columns import Columns, Progressive

_PUBLIC = {
    "Columns": "columns",
    "Progressive": "columns",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)
