"""Whether two networks began as one: only then do their weights have a mean that is worth something."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from crosstask.learning.modules import head_keys

ALIKE = 0.5
"""Cosine of two trunks' weights from which on they can have begun as one: of networks drawn apart it is about 0."""


def likeness(one: nn.Module, other: nn.Module) -> float:
    """The cosine of the weights of two trunks of one architecture, biases and statistics left out."""
    heads = head_keys(one) | head_keys(other)
    theirs = dict(other.named_parameters())
    pairs = [(p, theirs[n]) for n, p in one.named_parameters() if n not in heads and p.ndim > 1]
    if not pairs:
        return 1.0
    a, b = (torch.cat([pair[k].detach().double().cpu().flatten() for pair in pairs]) for k in (0, 1))
    return float(functional.cosine_similarity(a, b, dim=0))
