"""The contract's checks, with an adapter that is merged and with one that stays in the model."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from crosstask.learning.adapted_layers import LayerAdapter, LayersHandle, match_targets
from crosstask.options import component
from crosstask.points.adapter import Adapter
from crosstask.testing import conformance, reference_registry
from crosstask_adapter_tuning import AdapterTransfer


class Gate(LayerAdapter):
    """y + g tanh(y)."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros_like(weight[:, 0]))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.gate)

    def around(self, layer: nn.Module, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        y = inner(*args, **kwargs)
        return y + self.gate * y.tanh()


@component
class Gates(Adapter):
    """Cannot be merged."""

    def attach(self, model: nn.Module, targets: Sequence[str], generator: torch.Generator) -> LayersHandle:
        names = match_targets(model, targets, lambda _, layer: isinstance(layer, nn.Linear), "linear layers")
        return LayersHandle(model, {n: Gate(model.get_submodule(n)._parameters["weight"]) for n in names})


test_conformance = conformance(AdapterTransfer, options={"adapter": "reference"}, registry=reference_registry())
test_conformance_unmerged = conformance(AdapterTransfer, options={"adapter": Gates()})
