"""Transfer: what carried it, and the command that measures one."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {
    "Explain": "stage",
    "LayerAttribution": "records",
    "BlockAttribution": "records",
    "Causes": "records",
    "Effect": "records",
    "attribute_layers": "attribution",
    "class_causes": "causes",
    "skill_causes": "causes",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_transfer.attribution import attribute_layers
    from crosstask_transfer.causes import class_causes, skill_causes
    from crosstask_transfer.records import BlockAttribution, Causes, Effect, LayerAttribution
    from crosstask_transfer.stage import Explain
