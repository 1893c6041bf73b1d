"""Vector scaling."""

from __future__ import annotations

import torch
from crosstask import component, option
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from crosstask_calibration.contract import Calibrator
from crosstask_calibration.error import minimise


class PerClass(nn.Module):
    """A scale and a bias for each class."""

    def __init__(self, scale: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def forward(self, logits: Tensor) -> Tensor:
        return logits * self.scale.to(logits) + self.bias.to(logits)


@component
class Vector(Calibrator):
    """A scale and a bias for each class, by the likelihood of the held-out labels and a weak pull to the identity."""

    pull: float = option(0.01, ge=0, help="strength of the pull to the identity")

    def fit(self, logits: Tensor, labels: Tensor) -> nn.Module:
        classes = logits.shape[1]
        scale = torch.ones(classes, dtype=logits.dtype, device=logits.device, requires_grad=True)
        bias = torch.zeros(classes, dtype=logits.dtype, device=logits.device, requires_grad=True)

        def loss() -> Tensor:
            fit = cross_entropy(logits.detach() * scale + bias, labels)
            return fit + self.pull * ((scale - 1).square().sum() + bias.square().sum())

        minimise([scale, bias], loss)
        return PerClass(scale.detach(), bias.detach())
