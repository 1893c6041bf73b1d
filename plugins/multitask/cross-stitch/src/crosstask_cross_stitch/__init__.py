"""A network for each task, which take of each other after every layer."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_cross_stitch.cross_stitch import CrossStitch, StitchedNetworks

_PUBLIC = {
    "CrossStitch": "cross_stitch",
    "StitchedNetworks": "cross_stitch",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)
