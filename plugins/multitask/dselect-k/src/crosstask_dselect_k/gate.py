"""A gate that can be trained by gradients and ends in choosing k experts."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

_LEAST = 1e-6
"""What logarithms and quotients stay away from zero by; the size of the reference implementation."""


def smooth_step(values: Tensor, gamma: float = 1.0) -> Tensor:
    """0 up to -γ/2, 1 from γ/2 on, and between them -2 t³ / γ³ + 3 t / (2 γ) + 1/2 (equation 4 of the paper)."""
    inside = values.clamp(-gamma / 2, gamma / 2)  # whose gradient is zero outside, as that of a constant
    return (-2 / gamma**3) * inside**3 + 3 / (2 * gamma) * inside + 0.5


def codes(bits: Tensor, experts: int) -> Tensor:
    """For activations of bits [..., m], the share of each expert [..., E] by its number in binary, first bit first:
    the product of its ones' activations and of one minus its zeros' (equation 3). Past the last expert shares are lost.
    """
    shares = torch.ones_like(bits[..., :1])
    for bit in bits.unbind(-1):
        shares = torch.stack([shares * (1 - bit[..., None]), shares * bit[..., None]], dim=-1).flatten(-2)
    return shares[..., :experts]


class SelectorGate(nn.Module):
    """k selectors, each of which comes to choose one expert, and their weights: inputs [N, F] in, weights [N, E] out.

    Selector i has m = ⌈log2 E⌉ numbers z_i, of which smooth steps make bits and these an expert each; the gate is
    Σ_i softmax(α)_i r(z_i). z and α are linear in the input, or parameters if `static`.

    In training it adds the gradient of `entropy` · Σ_i H(r(z_i)) (the mean over the batch), and where E is no power of
    two of Σ_i 1 / Σ_j r(z_i)_j, to its own parameters and to nothing else: whoever differentiates a loss gets it on
    top, whatever weight the loss has. Nobody has to know of a second loss, and balanced gradients are the tasks'.
    """

    def __init__(self, inputs: int, experts: int, selectors: int, gamma: float, entropy: float, static: bool) -> None:
        super().__init__()
        self.experts, self.selectors, self.gamma, self.entropy = experts, selectors, gamma, entropy
        self.bits = math.ceil(math.log2(experts))
        self.codes = _Static(selectors * self.bits) if static else nn.Linear(inputs, selectors * self.bits)
        self.weights = _Static(selectors) if static else nn.Linear(inputs, selectors)
        for layer, spread in ((self.codes, gamma / 100), (self.weights, 0.05)):  # z near 0: every expert has a share
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -spread, spread)

    def forward(self, seen: Tensor) -> Tensor:
        seen = seen.to(next(self.parameters()).dtype)
        shares = self.shares(seen)
        weights: Tensor = (self.weights(seen).softmax(1)[:, :, None] * shares).sum(1)
        if self.training and torch.is_grad_enabled() and weights.requires_grad:
            # From detached inputs: what the gate looks at may be trained too, and is no business of the penalty.
            penalty = self.penalty(self.shares(seen.detach()) if seen.requires_grad else shares)
            weights = _And.apply(weights, penalty)
        return weights

    def shares(self, seen: Tensor) -> Tensor:
        """What each selector gives each expert [N, k, E]."""
        bits = smooth_step(self.codes(seen).unflatten(1, (self.selectors, self.bits)), self.gamma)
        return codes(bits, self.experts)

    def penalty(self, shares: Tensor) -> Tensor:
        """What is added to the losses, for shares [N, k, E] (section 3.2 and appendix of the paper)."""
        total = -self.entropy * (shares * (shares + _LEAST).log()).sum((1, 2)).mean()
        if self.experts < 2**self.bits:  # some codes mean no expert
            total = total + (1 / shares.sum(2).clamp_min(_LEAST)).sum(1).mean()
        return total


class _Static(nn.Module):
    """The same numbers for every input."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.empty(count))

    def forward(self, seen: Tensor) -> Tensor:
        return self.values.expand(len(seen), -1)


class _And(torch.autograd.Function):
    """The first as it is; in a backward pass the second is differentiated too, as part of the loss."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, extra: Tensor) -> Tensor:
        ctx.like = extra.detach()
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, torch.ones_like(ctx.like)
