"""Transfer: which layers carried it, and the command that measures one."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {
    "Explain": "stage",
    "LayerAttribution": "records",
    "BlockAttribution": "records",
    "attribute_layers": "attribution",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_transfer.attribution import attribute_layers
    from crosstask_transfer.records import BlockAttribution, LayerAttribution
    from crosstask_transfer.stage import Explain
