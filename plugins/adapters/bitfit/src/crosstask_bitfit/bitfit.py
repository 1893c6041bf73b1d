"""The `bitfit` adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.options import component
from crosstask.points.adapter import Adapter
from crosstask_adapters import LayerAdapter, LayersHandle, is_bare, is_floating, match_targets, own_tensor, own_weight


class BiasShift(LayerAdapter):
    """b + shift for each bias of a layer; a shift starts at zero."""

    weight_space = True
    additive = True

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.shifts = nn.ParameterDict({n: torch.zeros_like(own_weight(layer, n)) for n in biases(layer)})

    def reset_parameters(self) -> None:
        """A start from scratch, as torch's layers have."""
        for shift in self.shifts.values():
            nn.init.zeros_(shift)

    def change(self, layer: nn.Module, name: str, value: Tensor) -> Tensor:
        return value + self.shifts[name] if name in self.shifts else value

    def around(self, layer: Any, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if is_bare(inner):  # one addition of two vectors instead of one to all of the output
            own = layer._own()
            return layer._direct(layer, own | {"bias": own["bias"] + self.shifts["bias"]}, *args, **kwargs)
        return inner(*args, **kwargs) + _along(layer, self.shifts["bias"])

    @classmethod
    def mixed(cls, parts: Sequence[Any], choice: Tensor, inner: Any, x: Tensor) -> Tensor | None:
        shifts = [part.shifts["bias"] for part in parts]
        of = torch.stack([*shifts, torch.zeros_like(shifts[0])])[choice]  # [N, F]
        y = inner(x)
        channels = isinstance(inner.__self__, _CONVOLUTIONS)
        shape = (len(y), -1, *(1,) * (y.dim() - 2)) if channels else (len(y), *(1,) * (y.dim() - 2), of.shape[1])
        return y + of.view(shape)


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _along(layer: nn.Module, shift: Tensor) -> Tensor:
    """A shift of the outputs, for their shape: the channels of a convolution come before its places."""
    return shift.view(-1, *(1,) * len(layer.kernel_size)) if isinstance(layer, _CONVOLUTIONS) else shift


def biases(layer: nn.Module) -> list[str]:
    """Names of the parameters of a layer that are biases."""
    return [name for name in ("bias", "in_proj_bias") if own_tensor(layer, name) is not None]


def fits(name: str, module: nn.Module) -> bool:
    return bool(biases(module)) and is_floating(module)


@component
class BitFit(Adapter):
    """Trains biases only (Ben Zaken et al. 2022): those of linear, convolution, normalisation and attention layers.

    By its own choice it takes every layer that has one. Recurrent layers keep theirs in forms of their own and are left
    out. What it trains is the difference to the base's biases.
    """

    capabilities = frozenset({"mergeable"})

    def attach(self, model: nn.Module, targets: Sequence[str], generator: torch.Generator) -> LayersHandle:
        names = match_targets(model, targets, fits, "layers with a bias")
        return LayersHandle(model, {name: BiasShift(model.get_submodule(name)) for name in names})
