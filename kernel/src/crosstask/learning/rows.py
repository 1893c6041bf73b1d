"""Outputs that a layer gains later, in plain layers beside it: the layer itself, and what adapts it, stay as they are.

They stand in the layer, or in the adapter that learns there, so that they are saved, moved and taken off with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

GROWN = "grown"
"""Under this name they stand in their holder, a `ModuleList` with a layer for each growth: a larger product would round
the outputs that there were otherwise."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Kinds of convolution layers."""


def outputs_in(layer: Any) -> int:
    """How many outputs a linear layer or a convolution makes by itself."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def layer_like(layer: Any, outputs: int) -> Any:
    """A plain linear layer or convolution as this one, newly drawn, with so many outputs."""
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        made: Any = nn.Linear(layer.in_features, outputs, bias=bias)
    else:
        kind: Any = next(kind for kind in CONVOLUTIONS if isinstance(layer, kind))
        how = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        made = kind(layer.in_channels, outputs, bias=bias, **{name: getattr(layer, name) for name in how})
    return made.to(layer.weight)


def rows_of(layer: Any) -> list[Any]:
    """The layers that answer for what a layer has gained, in their order."""
    holders = (layer, *getattr(layer, "_parts", ()))  # `_parts`: the adapters on it
    return [rows for holder in holders for rows in holder._modules.get(GROWN) or ()]


def append_rows(layer: Any, rows: nn.Module, holder: nn.Module | None = None) -> None:
    """Let `rows` answer for further outputs of a layer. They stand in `holder`: by default the last adapter on the
    layer, or the layer.
    """
    parts: tuple[nn.Module, ...] = getattr(layer, "_parts", ())
    place = holder or (parts[-1] if parts else layer)
    if GROWN not in place._modules:
        place.add_module(GROWN, nn.ModuleList())
    found = place._modules[GROWN]
    assert isinstance(found, nn.ModuleList)
    found.append(rows.train(layer.training))
    if _append not in layer._forward_hooks.values():
        layer.register_forward_hook(_append)


def missing_rows(layer: Any, holder: nn.Module, prefix: str, state: Mapping[str, Tensor]) -> list[nn.Module]:
    """Layers for the rows of `holder` that a state has under `prefix`, and `holder` has not: of the right shapes."""
    have = len(holder._modules.get(GROWN) or ())  # type: ignore[arg-type]
    made: list[nn.Module] = []
    while (weight := state.get(f"{prefix}{GROWN}.{have + len(made)}.weight")) is not None:
        made.append(layer_like(layer, len(weight)))
    return made


def keep_rows(layer: nn.Module, holder: nn.Module) -> None:
    """What `holder`, which is about to be taken off, has grown becomes the layer's own."""
    for rows in holder._modules.pop(GROWN, None) or ():  # type: ignore[union-attr]
        append_rows(layer, rows, layer)


def _append(layer: nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor:
    """A forward hook: the layer's answer, and then that of its later rows. A function of the module: copies have it."""
    more = [rows(*given) for rows in rows_of(layer)]
    return torch.cat([output, *more], dim=-1 if isinstance(layer, nn.Linear) else 1) if more else output
