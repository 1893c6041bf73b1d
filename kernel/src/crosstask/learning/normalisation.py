"""Batch normalisation whose second derivative is as quick as its first.

torch's own second derivative of batch normalisation is put together from some thirty passes over the activations; by
hand it takes five sums and two linear combinations. Gradients through the gradient steps of an inner loop need it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def batch_normalised(inputs: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Batch normalisation of [N, C, …] by the statistics of the batch: `torch.nn.functional.batch_norm`, training.

    Differentiable twice. ValueError, as there, for a single value per channel.
    """
    if inputs.numel() == inputs.shape[1]:
        raise ValueError(f"batch normalisation needs more than one value per channel, got {list(inputs.shape)}")
    weight = inputs.new_ones(inputs.shape[1]) if weight is None else weight
    bias = inputs.new_zeros(inputs.shape[1]) if bias is None else bias
    found: Tensor = _Forward.apply(inputs, weight, bias, eps)  # type: ignore[no-untyped-call]
    return found


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, mean, scale = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight, mean, scale = ctx.saved_tensors
        return *_Backward.apply(g, x, weight, mean, scale, ctx.eps), None  # type: ignore[no-untyped-call]


class _Backward(torch.autograd.Function):
    """With z = (x - mean) r and means over each channel: dx = w r (g - mean(g) - z mean(g z)), dw = Σ g z, db = Σ g."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, eps: float) -> Any:
        ctx.save_for_backward(g, x, weight, mean, scale)
        return torch.ops.aten.native_batch_norm_backward(
            g, x, weight, None, None, mean, scale, True, eps, [True, True, True]
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor, vw: Tensor, vb: Tensor) -> Any:
        """The derivative of L = <v, dx> + <vw, dw> + <vb, db>, where mean and r are functions of x too."""
        g, x, weight, mean, r = ctx.saved_tensors
        others = [d for d in range(x.ndim) if d != 1]
        count = x.numel() // x.shape[1]

        def channel(values: Tensor) -> Tensor:
            return values.reshape(1, -1, *(1 for _ in others[1:]))

        def average(values: Tensor) -> Tensor:
            return values.sum(others).div(count)

        z = (x - channel(mean)) * channel(r)
        g_mean, v_mean, gz, vz, gv = average(g), average(v), average(g * z), average(v * z), average(g * v)
        s = weight * r
        inner = count * (gv - v_mean * g_mean - gz * vz)  # <v, dx> / (w r)
        # L depends on z by u = -s (g mean(v z) + v mean(g z)) + vw g, and on r, which scales dx
        u_mean = -s * (g_mean * vz + v_mean * gz) + vw * g_mean
        uz = -2 * s * gz * vz + vw * gz
        of_z = -r * uz - weight * inner * r.square() / count
        to_g, to_v = r * (vw - s * vz), -r * s * gz
        dx = torch.addcmul(z.mul(channel(of_z)).sub_(channel(r * u_mean)), g, channel(to_g)).addcmul_(v, channel(to_v))
        dg = torch.addcmul(channel(vb - s * v_mean), z, channel(vw - s * vz)).addcmul_(v, channel(s))
        return dg, dx, r * inner, None, None, None
