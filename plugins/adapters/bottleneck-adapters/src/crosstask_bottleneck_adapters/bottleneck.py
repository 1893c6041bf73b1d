"""The `bottleneck` adapter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.options import component, option
from crosstask.points.adapter import Adapter
from crosstask_adapters import LayersHandle, draw, match_targets
from crosstask_bottleneck_adapters.places import WHAT, OutputAdapter, chosen, fits, sublayers, width_of

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
    "linear": lambda x: x,
}


class BottleneckLayer(OutputAdapter):
    """y + U g(D y + a) + b with D [hidden, F] and U [F, hidden] (Houlsby et al. 2019, figure 2); U starts at zero."""

    def __init__(self, width: int, hidden: int, activation: str, like: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.activation = activation
        self.down = draw((hidden, width), 1 / math.sqrt(width), like, generator)
        self.down_bias = nn.Parameter(like.new_zeros(hidden))
        self.up = nn.Parameter(like.new_zeros(width, hidden))
        self.up_bias = nn.Parameter(like.new_zeros(width))

    def reset_parameters(self) -> None:
        """A start from scratch, as torch's layers have."""
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        for zero in (self.down_bias, self.up, self.up_bias):
            nn.init.zeros_(zero)

    def more(self, y: Tensor) -> Tensor:
        hidden = ACTIVATIONS[self.activation](functional.linear(y, self.down, self.down_bias))
        return functional.linear(hidden, self.up, self.up_bias)

    @classmethod
    def more_mixed(cls, parts: Sequence[Any], choice: Tensor, y: Tensor) -> Tensor | None:
        if len({(len(part.down), part.activation) for part in parts}) > 1:
            return None
        weights = (chosen([getattr(p, n) for p in parts], choice) for n in ("down", "down_bias", "up", "up_bias"))
        down, down_bias, up, up_bias = weights
        rows = y.reshape(len(y), -1, y.shape[-1])
        hidden = torch.baddbmm(down_bias[:, None], rows, down.transpose(1, 2))
        hidden = ACTIVATIONS[parts[0].activation](hidden)
        return torch.baddbmm(up_bias[:, None], hidden, up.transpose(1, 2)).view(y.shape)


class _AfterLayers(Adapter):
    """Bottlenecks after each sublayer of a transformer, or after each linear and convolution layer of others."""

    hidden_dim: int
    activation: str

    def attach(self, model: nn.Module, targets: Sequence[str], generator: torch.Generator) -> LayersHandle:
        names = match_targets(model, targets, fits(model), WHAT, sublayers(model))
        parts = {}
        for name in names:
            layer = model.get_submodule(name)
            like = next(layer.parameters())
            parts[name] = BottleneckLayer(width_of(layer), self.hidden_dim, self.activation, like, generator)
        return LayersHandle(model, parts)


@component
class Bottleneck(_AfterLayers):
    """A small network after each sublayer of a transformer, or after each linear and convolution layer of any other
    model: y + U g(D y) (Houlsby et al. 2019, section 2).

    It is no change of weights: it cannot be merged, and torch's fused encoder path is off while it is enabled.
    """

    hidden_dim: int = option(64, ge=1, help="width of the hidden layer")
    activation: str = option("relu", choices=tuple(ACTIVATIONS), help="between the two layers")


@component
class LinearBottleneck(_AfterLayers):
    """As `bottleneck`, without a nonlinearity: y + U D y, a change of rank `hidden_dim` of what each layer gives."""

    activation: ClassVar[str] = "linear"  # type: ignore[misc]
    hidden_dim: int = option(64, ge=1, help="width of the hidden layer")
