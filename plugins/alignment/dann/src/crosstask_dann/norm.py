"""Batch normalisation that does not mix domains."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class DomainNorm(nn.Module):
    """BatchNorm of rows [N, width] with statistics of each domain by itself, and scale and shift that all share (Li et
    al. 2018, *Adaptive Batch Normalization*).

    In training the rows of a domain are normalised by their own mean and variance, which its running statistics follow;
    in evaluation by these. Rows whose domain is not said are normalised by the statistics of the whole batch, in
    evaluation by those of all rows so far, which are kept beside those of the domains. A domain with a single row in a
    batch has no variance there: its running statistics are used.
    """

    means: Tensor
    """Running means [n_domains + 1, width]; the last of all rows, whatever their domain."""
    variances: Tensor
    """Running variances, likewise."""

    def __init__(self, width: int, n_domains: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps, self.n_domains = momentum, eps, n_domains
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("means", torch.zeros(n_domains + 1, width))
        self.register_buffer("variances", torch.ones(n_domains + 1, width))

    def forward(self, x: Tensor, domain: Tensor | None = None) -> Tensor:
        """Rows [N, width], normalised; `domain` [N] are numbers from 0."""
        if not self.training:
            slots = torch.full((len(x),), self.n_domains, device=x.device) if domain is None else domain
            normal = (x - self.means[slots]) * (self.variances[slots] + self.eps).rsqrt()
            return normal * self.weight + self.bias
        pooled = self._normal(x, self.n_domains)
        if domain is None:
            return pooled * self.weight + self.bias
        made = torch.empty_like(pooled)
        for number in torch.unique(domain).tolist():
            own = domain == number
            made[own] = self._normal(x[own], number)
        return made * self.weight + self.bias

    def _normal(self, rows: Tensor, slot: int) -> Tensor:
        training = len(rows) > 1
        return functional.batch_norm(
            rows, self.means[slot], self.variances[slot], training=training, momentum=self.momentum, eps=self.eps
        )
