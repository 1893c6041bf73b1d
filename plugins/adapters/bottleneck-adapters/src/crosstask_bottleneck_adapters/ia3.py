"""The `ia3` adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.options import component
from crosstask.points.adapter import Adapter
from crosstask_adapters import CONVOLUTIONS, LayerAdapter, LayersHandle, is_transposed, match_targets, own_weight
from crosstask_bottleneck_adapters.places import LAYERS, WHAT, fits

KEYS_VALUES = ("k_proj", "v_proj", "key", "value", "k", "v")
FEED_FORWARD = ("linear2", "fc2", "down_proj", "wo", "c_proj")


class Rescaling(LayerAdapter):
    """The outputs of a layer times a vector, or, with `inputs`, its inputs; the vector starts at ones."""

    weight_space = True

    def __init__(self, layer: Any, inputs: bool) -> None:
        super().__init__()
        weight = own_weight(layer, "weight")
        self.inputs, self.convolution, self.transposed = inputs, isinstance(layer, CONVOLUTIONS), is_transposed(layer)
        self.groups = layer.groups if self.convolution else 1
        sides = weight.shape[1], len(weight)
        width_in, width_out = sides[::-1] if self.transposed else (sides[0] * self.groups, sides[1])
        self.scale = nn.Parameter(weight.new_ones(width_in if inputs else width_out))

    def reset_parameters(self) -> None:
        """A start from scratch, as torch's layers have."""
        nn.init.ones_(self.scale)

    def change(self, layer: nn.Module, name: str, value: Tensor) -> Tensor:
        if self.transposed and name == "weight":
            return value * (self.scale[:, None] if self.inputs else self.scale)
        if not self.inputs and name in ("weight", "bias"):
            return value * self.scale.view(-1, *(1,) * (value.dim() - 1))
        if self.inputs and name == "weight":
            parts = value.view(self.groups, -1, *value.shape[1:])  # each group has its share of the inputs
            scale = self.scale.view(self.groups, 1, -1, *(1,) * (value.dim() - 2))
            return (parts * scale).view(value.shape)
        return value

    def around(self, layer: nn.Module, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        (x,) = args
        return inner(x * self.along(x, self.scale)) if self.inputs else (y := inner(x)) * self.along(y, self.scale)

    def along(self, x: Tensor, scale: Tensor) -> Tensor:
        """scale [F], or [N, F] for each sample, for the shape of x [N, ..., F] (of a convolution: [N, F, ...])."""
        if self.convolution:
            return scale.view(*scale.shape, *(1,) * (x.dim() - 2))
        return scale if scale.dim() == 1 else scale.view(len(scale), *(1,) * (x.dim() - 2), scale.shape[-1])

    @classmethod
    def mixed(cls, parts: Sequence[Any], choice: Tensor, inner: Callable[..., Any], x: Tensor) -> Tensor | None:
        first = parts[0]
        if any(part.inputs != first.inputs for part in parts):
            return None
        scale = torch.stack([*(part.scale for part in parts), torch.ones_like(first.scale)])[choice]
        if first.inputs:
            return inner(x * first.along(x, scale))
        y = inner(x)
        return y * first.along(y, scale)


class KeysValues(LayerAdapter):
    """Keys and values of torch's attention times a vector each: rows of its input projection."""

    weight_space = True

    def __init__(self, layer: nn.MultiheadAttention) -> None:
        super().__init__()
        like = own_weight(layer.out_proj, "weight")
        self.keys = nn.Parameter(like.new_ones(layer.embed_dim))
        self.values = nn.Parameter(like.new_ones(layer.embed_dim))

    def reset_parameters(self) -> None:
        """A start from scratch, as torch's layers have."""
        nn.init.ones_(self.keys)
        nn.init.ones_(self.values)

    def change(self, layer: nn.Module, name: str, value: Tensor) -> Tensor:
        if name in ("in_proj_weight", "in_proj_bias"):
            rows = torch.cat([torch.ones_like(self.keys), self.keys, self.values])
            return value * rows.view(-1, *(1,) * (value.dim() - 1))
        if name in ("k_proj_weight", "v_proj_weight"):
            return value * (self.keys if name[0] == "k" else self.values)[:, None]
        return value


@component
class IA3(Adapter):
    """Rescales activations by learned vectors (Liu et al. 2022, section 3.3): keys and values of attention layers, and
    the inputs of the last layer of feed-forward blocks.

    By its own choice it takes torch's attention and transformer layers, and linear layers with the usual names of keys,
    values and feed-forward layers; in a model without any, the outputs of all linear and convolution layers. It can be
    merged.
    """

    capabilities = frozenset({"mergeable"})

    def attach(self, model: nn.Module, targets: Sequence[str], generator: torch.Generator) -> LayersHandle:
        def known(name: str) -> bool:
            parent, _, child = name.rpartition(".")
            module = model.get_submodule(name)
            if isinstance(module, nn.MultiheadAttention):
                return True
            if isinstance(model.get_submodule(parent), LAYERS):
                return child == "linear2"
            return child in (*KEYS_VALUES, *FEED_FORWARD)

        def choose(names: list[str]) -> list[str]:
            return [name for name in names if known(name)] or names

        parts: dict[str, LayerAdapter] = {}
        for name in match_targets(model, targets, fits(model), WHAT, choose):
            layer = model.get_submodule(name)
            if isinstance(layer, nn.MultiheadAttention):
                parts[name] = KeysValues(layer)
            else:
                parts[name] = Rescaling(layer, inputs=name.rpartition(".")[2] in FEED_FORWARD)
        return LayersHandle(model, parts)
