"""A factor for each output of a linear layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.options import component, option
from crosstask.points.adapter import Adapter, AdapterHandle
from crosstask_adapters import LayerAdapter, LayersHandle, match_targets, own_weight


class Factors(LayerAdapter):
    """The outputs of a layer times factors [F]: a change of its weight and its bias, so that it can be merged."""

    weight_space = True

    def __init__(self, weight: Tensor, start: float) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.full_like(weight[:, 0], start))

    def change(self, layer: nn.Module, name: str, value: Tensor) -> Tensor:
        """What is merged, and what those see who read the weights instead of calling the layer."""
        return value * (self.factors[:, None] if name == "weight" else self.factors)

    def around(self, layer: nn.Module, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The same at a call of the layer, where it is cheaper."""
        return inner(*args, **kwargs) * self.factors


@component
class ExampleAdapter(Adapter):
    """Scales what linear layers give, feature by feature."""

    capabilities = frozenset({"mergeable"})

    start: float = option(1.0, gt=0, help="every factor at first")

    def attach(self, model: nn.Module, targets: Sequence[str], generator: torch.Generator) -> AdapterHandle:
        names = match_targets(model, targets, lambda _, layer: isinstance(layer, nn.Linear), "linear layers")
        return LayersHandle(
            model, {name: Factors(own_weight(model.get_submodule(name), "weight"), self.start) for name in names}
        )
