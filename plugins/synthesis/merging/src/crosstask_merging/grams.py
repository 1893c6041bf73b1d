"""Gram matrices of what comes into a model's linear layers: all that RegMean needs to know of the data."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.modules import uncompiled
from crosstask.learning.training import predict


@torch.no_grad()
def grams_of(model: nn.Module, inputs: Tensor | MultiInput) -> dict[str, Tensor]:
    """For each linear and (ungrouped, zero-padded) 2-d convolution layer, by its name, the mean over positions of
    [x 1]ᵀ[x 1], [in + 1, in + 1]: x what comes in, the 1 stands for the bias. In double precision on the CPU.

    They can be stored with safetensors beside the model, and say nothing of single samples. DataError without inputs.
    """
    if len(inputs) == 0:
        raise DataError("Gram matrices need at least one input")
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def see(name: str, layer: nn.Module, received: tuple[Tensor, ...]) -> None:
        rows = _rows(layer, received[0].detach())
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1).double()
        found = (rows.T @ rows).cpu()
        totals[name] = totals[name] + found if name in totals else found
        counts[name] = counts.get(name, 0) + len(rows)

    handles = [
        layer.register_forward_pre_hook(functools.partial(see, name))
        for name, layer in model.named_modules()
        if _serves(layer)
    ]
    try:
        with uncompiled():
            predict(model, inputs, batch_size=256)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / counts[name] for name, total in totals.items()}


def _serves(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.is_complex():
        return False
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return isinstance(layer, nn.Linear)


def _rows(layer: nn.Module, received: Tensor) -> Tensor:
    """What each output position is a linear function of: [positions, in]."""
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)
        patches = functional.unfold(received, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return patches.transpose(1, 2).flatten(0, 1)
    return received.reshape(-1, received.shape[-1])
