"""A trunk in blocks, and layers of attention on what they give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask.descriptors import MultiInput
from crosstask.learning.models import Network
from crosstask_multitask.experts import Chain

Kind = Literal["vectors", "maps", "places"]
"""Features [N, F], maps [N, C, …] or those of places [N, L, F]."""

_CONVOLUTIONS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_POOLS = {3: F.adaptive_max_pool1d, 4: F.adaptive_max_pool2d, 5: F.adaptive_max_pool3d}
_RESIZE = (nn.Flatten, nn.Unflatten, nn.Upsample)


def cut(stage: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """A stage's layers up to where its features are resized without weights (pooled, flattened), and from there on."""
    if not isinstance(stage, nn.Sequential):
        return [stage], []
    layers = list(stage)
    last = max((n for n, layer in enumerate(layers) if any(True for _ in layer.parameters())), default=len(layers))
    for number, layer in enumerate(layers):
        if number > last and (isinstance(layer, _RESIZE) or type(layer).__module__ == nn.MaxPool2d.__module__):
            before, after = layers[:number], layers[number:]
            return [Network(*before)] if isinstance(stage, Network) else before, after
    return [stage], []


class Block(nn.Module):
    """Some stages of a trunk: `first` gives u, what attention looks at, `rest` p, what is attended to, and `tail` (it
    has no weights) what the next block takes. Of one stage u and p are the same.
    """

    def __init__(self, part: Chain) -> None:
        super().__init__()
        stages = list(part.stages)
        body, tail = cut(stages[-1])
        if len(stages) == 1:
            self.first, self.rest = Chain(body), Chain([])
        else:
            first, after = cut(stages[0])
            self.first, self.rest = Chain(first), Chain([*after, *stages[1:-1], *body])
        self.tail = Chain(tail)
        self.convolves = any(isinstance(m, tuple(_CONVOLUTIONS.values())) for m in part.modules())

    def forward(self, batch: Tensor | MultiInput) -> tuple[Tensor, Tensor]:
        looked_at: Tensor = self.first(batch)
        return looked_at, self.rest(looked_at)

    def kind(self, features: Tensor) -> Kind:
        """What these features, which it gave, are."""
        if features.ndim == 2:
            return "vectors"
        return "maps" if features.ndim > 3 or self.convolves else "places"


class Norm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over all but the second dimension. A single value has no spread: it is normalised by the
    running statistics, where torch refuses a training batch of one.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


def norm_for(kind: Kind, channels: int) -> nn.Module:
    """Batch normalisation of maps, as in the paper; layer normalisation of vectors, those of places too. A linear layer
    on a trunk's vectors moves by more in ten steps than they are spread, and running statistics lag as far behind.
    """
    return Norm(channels) if kind == "maps" else nn.LayerNorm(channels)


class Pointwise(nn.Module):
    """A linear layer on the channels of every place, and normalisation (given in a call, if not `normed`). `size` > 1:
    a convolution over so many places (maps only).
    """

    channels: ClassVar[dict[Kind, int]] = {"vectors": 1, "maps": 1, "places": -1}

    def __init__(self, kind: Kind, ndim: int, inputs: int, outputs: int, size: int = 1, *, normed: bool = True) -> None:
        super().__init__()
        self.kind, self.outputs = kind, outputs
        self.layer: nn.Module = (
            _CONVOLUTIONS[ndim](inputs, outputs, size, padding=size // 2)
            if kind == "maps"
            else nn.Linear(inputs, outputs)
        )
        self.norm = norm_for(kind, outputs) if normed else None

    def forward(self, features: Tensor, norm: nn.Module | None = None) -> Tensor:
        norm = norm or self.norm
        assert norm is not None
        made: Tensor = norm(self.layer(features))
        return made


class Attention(nn.Module):
    """h(g(·)): a mask in (0, 1), one value for each of `outputs` channels of every place."""

    def __init__(self, kind: Kind, ndim: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.g, self.h = Pointwise(kind, ndim, inputs, outputs), Pointwise(kind, ndim, outputs, outputs)

    def forward(self, seen: Tensor) -> Tensor:
        return torch.sigmoid(self.h(F.relu(self.g(seen))))


class Onward(nn.Module):
    """f: takes what a task attended to in a block, before its `tail`, to what the next block looks at.

    Maps go through a 3x3 convolution and are pooled to the size of the next maps, as in the paper; anything else goes
    through the tail and a linear layer. The layer is that of all tasks, its normalisation each task's own: tasks attend
    to unlike features, and the running statistics of all of them together would be those of none.
    """

    def __init__(self, before: Kind, attended: Tensor, tail: Chain, after: Kind, looked_at: Tensor) -> None:
        super().__init__()
        self.maps = before == after == "maps" and attended.ndim == looked_at.ndim
        channel = Pointwise.channels[after]
        entering = attended if self.maps else tail(attended)
        width = entering.shape[1 if self.maps else channel]
        self.layer = Pointwise(
            after, looked_at.ndim, width, looked_at.shape[channel], 3 if self.maps else 1, normed=False
        )

    def forward(self, attended: Tensor, tail: Chain, looked_at: Tensor, norm: nn.Module) -> Tensor:
        if not self.maps:
            return F.relu(self.layer(tail(attended), norm))
        made = F.relu(self.layer(attended, norm))
        return made if made.shape[2:] == looked_at.shape[2:] else resized(made, looked_at)


def resized(maps: Tensor, like: Tensor) -> Tensor:
    """Maps by maxima to the size of others."""
    made: Tensor = _POOLS[maps.ndim](maps, like.shape[2:])
    return made


def joined(parts: Sequence[Tensor], kind: Kind) -> Tensor:
    """Features side by side."""
    return torch.cat(list(parts), dim=Pointwise.channels[kind])
