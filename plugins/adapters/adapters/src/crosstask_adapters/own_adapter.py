"""Adapters of one's own: a module that refines features, by itself or behind the layers of a model."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from crosstask.errors import DataError, OptionError
from crosstask_adapters.adapted_layers import CONVOLUTIONS, is_transposed, own_tensor
from crosstask_adapters.config import AdapterConfig
from crosstask_adapters.handle import LayersHandle
from crosstask_adapters.layer_adapter import LayerAdapter
from crosstask_adapters.targets import called, is_floating, match_targets


class BaseAdapter(nn.Module, ABC):
    """A small network x [..., F] -> [..., F], with F = `config.input_dim`. Derive from it and give `forward`.

    It is a module like any other. `AdapterModel(base, {"mine": Mine(config)})` puts a copy of it behind each layer that
    gives F features (or, of those, each that `config.target_modules` name): the layer then answers `forward` of what it
    did. Whatever it answers at first, the model does; so let what it adds start at zero.
    """

    config: AdapterConfig
    """What it was made from."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        if not isinstance(config, AdapterConfig):
            raise OptionError(f"{type(self).__name__} is made from an AdapterConfig, got a {type(config).__name__}")
        if config.input_dim is None:
            raise OptionError(f"{type(self).__name__}: config.input_dim must say how many features it refines")
        self.config = config

    @property
    def width(self) -> int:
        """How many features it refines."""
        assert self.config.input_dim is not None
        return self.config.input_dim

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The refined features, of the shape of x."""


class Behind(LayerAdapter):
    """g(y) behind a layer that gives y; g sees features last, and images (of convolutions, too) as [N, places, F]."""

    def __init__(self, adapter: BaseAdapter, layer: nn.Module) -> None:
        super().__init__()
        self.adapter = copy.deepcopy(adapter)
        like = next((p for p in layer.parameters() if p.is_floating_point()), None)
        if like is not None:
            self.adapter.to(like.device, like.dtype)

    def around(self, layer: nn.Module, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        y = inner(*args, **kwargs)
        if isinstance(y, tuple):  # attention gives its weights, too
            return (self._refined(y[0]), *y[1:])
        if isinstance(layer, CONVOLUTIONS):
            return self._refined(y.movedim(1, -1)).movedim(-1, 1)
        return self._refined(y)

    def _refined(self, y: Tensor) -> Tensor:
        rows = y.flatten(1, -2) if y.dim() > 3 else y
        found = self.adapter(rows)
        if not isinstance(found, Tensor) or found.shape != rows.shape:
            got = tuple(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise DataError(
                f"{type(self.adapter).__name__}.forward gave {got} for features of shape {tuple(rows.shape)}"
            )
        return found.reshape(y.shape) if rows is not y else found


def attach_own(model: nn.Module, adapter: BaseAdapter, targets: Sequence[str]) -> LayersHandle:
    """Copies of an adapter behind the layers that give as many features as it takes. DataError if there is none."""
    names = match_targets(
        model, targets, lambda name, m: gives(m) == adapter.width and is_floating(m) and called(model, name),
        f"layers that give {adapter.width} features",
    )  # fmt: skip
    return LayersHandle(model, {name: Behind(adapter, model.get_submodule(name)) for name in names})


def gives(layer: Any) -> int | None:
    """How many features or channels a layer gives; None for other layers than those that adapters sit on."""
    if isinstance(layer, nn.MultiheadAttention):
        return int(layer.embed_dim)
    if is_transposed(layer):
        return int(layer.nf)
    if isinstance(layer, nn.Embedding):
        return int(layer.embedding_dim)
    if not isinstance(layer, (nn.Linear, *CONVOLUTIONS)) or own_tensor(layer, "weight") is None:
        return None
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def takes(layer: Any) -> int | None:
    """How many features or channels a layer takes, if it says so; None for what is made of other layers."""
    inside = set(layer._modules) - {"parametrizations", "_adapters"}
    if inside and not isinstance(layer, nn.MultiheadAttention):
        return None
    if is_transposed(layer):
        return int(layer.nx)
    names = ("in_features", "in_channels", "embed_dim", "num_features")
    found = next((getattr(layer, name) for name in names if hasattr(layer, name)), None)
    return found if isinstance(found, int) else None
