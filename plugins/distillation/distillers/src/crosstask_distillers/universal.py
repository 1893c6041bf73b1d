"""The universal encoder: one network behind an encoder for each domain."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.learning.inputs import kind_of
from crosstask.learning.modules import forward

Inputs = Tensor | MultiInput


class Universal(nn.Module):
    """Domain encoders into one encoder. Without a domain the inputs go straight into it.

    `kind` is that of the inputs (`kind_of`) that go straight in; with domains they are a single tensor of numbers.
    """

    def __init__(self, model: nn.Module, kind: Hashable, domains: dict[str, tuple[int, ...]], rank: int) -> None:
        super().__init__()
        self.model, self.kind, self.names = model, kind, list(domains)
        shape: Any = kind[0] if domains else ()  # type: ignore[index]
        self.encoders = nn.ModuleList(DomainEncoder(given, shape, rank) for given in domains.values())

    def serves(self, inputs: Inputs) -> bool:
        return kind_of(inputs) == self.kind

    def forward(self, inputs: Inputs, domain: str | None = None) -> Tensor:
        if domain in self.names:
            inputs = self.encoders[self.names.index(domain)](inputs)
        return forward(self.model, inputs).flatten(1)

    def tensors(self) -> dict[str, Tensor]:
        found = {f"universal.{k.removeprefix('model.')}": v for k, v in self.model.state_dict().items()}
        for name, encoder in zip(self.names, self.encoders, strict=True):
            found |= {f"domain.{name}.{k}": v for k, v in encoder.state_dict().items()}
        return {k: v.detach().clone() for k, v in found.items()}


class DomainEncoder(nn.Module):
    """x + up(down(x)) on flattened inputs, at first x; inputs of another shape are first mapped to the common one."""

    def __init__(self, given: tuple[int, ...], shape: tuple[int, ...], rank: int) -> None:
        super().__init__()
        self.shape = shape
        size, wanted = math.prod(given), math.prod(shape)
        self.resize = nn.Identity() if given == shape else nn.Linear(size, wanted)
        self.down = nn.Linear(wanted, min(rank, wanted))
        self.up = nn.Linear(min(rank, wanted), wanted)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        flat = self.resize(inputs.flatten(1))
        return (flat + self.up(self.down(flat))).reshape(-1, *self.shape)


class Reversed(torch.autograd.Function):
    """The identity, whose gradient is turned round and multiplied by a strength."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None
