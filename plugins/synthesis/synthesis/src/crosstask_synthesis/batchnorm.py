"""BatchNorm's statistics after weights were combined: those of the new model are not the mean of its parts'."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from crosstask.descriptors import MultiInput
from crosstask.learning.modules import forward
from crosstask.learning.training import device_of

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Buffers of BatchNorm, by the last part of their names."""


def is_statistic(name: str) -> bool:
    """Whether a tensor of this name is a statistic of BatchNorm's: never part of a task vector."""
    return name.rpartition(".")[2] in STATISTICS


def _normalisers(model: nn.Module) -> list[_NormBase]:
    found = [m for m in model.modules() if isinstance(m, _NormBase)]
    return [m for m in found if m.track_running_stats and m.running_mean is not None]


def has_statistics(model: nn.Module) -> bool:
    """Whether a model holds running statistics."""
    return bool(_normalisers(model))


@torch.no_grad()
def reestimate(model: nn.Module, inputs: Tensor | MultiInput, batch_size: int = 256) -> None:
    """Set every running statistic to its mean over batches of `inputs`, in place. Weights and modes are left alone.

    Every batch counts the same; all but normalisation layers stay in evaluation mode, so that dropout is off.
    """
    layers = _normalisers(model)
    if not layers:
        return
    modes = [(module, module.training) for module in model.modules()]
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's way to ask for the cumulative mean
        layer.train()
    try:
        count = max(1, round(len(inputs) / batch_size))  # batches of nearly the same size: none of a single input
        for index in torch.tensor_split(torch.arange(len(inputs)), count):
            forward(model, inputs[index.to(inputs.device)].to(device_of(model)))
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes:
            module.training = mode
