"""Adapters: layers that ask their adapters, several adapters on one model."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {
    "AdaptedLayer": "adapted_layers",
    "CONVOLUTIONS": "adapted_layers",
    "computed_names": "adapted_layers",
    "is_bare": "adapted_layers",
    "is_transposed": "adapted_layers",
    "own_tensor": "adapted_layers",
    "own_weight": "adapted_layers",
    "base_digests": "base_weights",
    "base_modules": "base_weights",
    "base_state": "base_weights",
    "AdapterConfig": "config",
    "AdapterType": "config",
    "LayersHandle": "handle",
    "check_names": "handle",
    "LayerAdapter": "layer_adapter",
    "draw": "layer_adapter",
    "AdapterModel": "model",
    "BaseAdapter": "own_adapter",
    "called": "targets",
    "is_floating": "targets",
    "match_targets": "targets",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_adapters.adapted_layers import (
        CONVOLUTIONS,
        AdaptedLayer,
        computed_names,
        is_bare,
        is_transposed,
        own_tensor,
        own_weight,
    )
    from crosstask_adapters.base_weights import base_digests, base_modules, base_state
    from crosstask_adapters.config import AdapterConfig, AdapterType
    from crosstask_adapters.handle import LayersHandle, check_names
    from crosstask_adapters.layer_adapter import LayerAdapter, draw
    from crosstask_adapters.model import AdapterModel
    from crosstask_adapters.own_adapter import BaseAdapter
    from crosstask_adapters.targets import called, is_floating, match_targets
