"""The layer that reverses gradients, and the schedule of its strength (Ganin et al. 2016)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from crosstask_alignment.domains import progress_of


class GradientReversalLayer(torch.autograd.Function):
    """`GradientReversalLayer.apply(x, alpha)` is x; backward it is -alpha times the gradient (Ganin et al. 2016,
    equations 15 and 16). `alpha` gets no gradient. It may stand inside `torch.func.grad` and `vmap`.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, alpha: float) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.alpha = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.alpha * grads[0], None


def reversal_strength(progress: float, gamma: float = 10.0) -> float:
    """alpha(p) = 2 / (1 + exp(-gamma p)) - 1: from 0 at the beginning of training (p = 0) to almost 1 at its end
    (p = 1), so that a critic which knows nothing yet does not disturb (Ganin et al. 2016, section 5.2.2).

    DataError for a progress outside 0 to 1.
    """
    return math.tanh(gamma * progress_of(progress) / 2)  # the same, and exact for large gamma
