"""A small discriminator of frames."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional


class Discriminator(nn.Module):
    """Three convolutions with leaky ReLU, the last two of stride 2 and padded for any size; their means give a logit.

    `forward(frames [N, C, H, W]) -> (logits [N], features of each convolution)`.
    """

    def __init__(self, channels: int, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        sizes = (channels, *widths)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=1 if not number else 2, padding=1)
            for number, (before, after) in enumerate(itertools.pairwise(sizes))
        )
        self.head = nn.Linear(widths[-1], 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        features: list[Tensor] = []
        for layer in self.layers:
            frames = functional.leaky_relu(layer(frames), 0.2)
            features.append(frames)
        return self.head(frames.mean((-2, -1)))[:, 0], features


def discriminator(shape: tuple[int, ...]) -> Discriminator:
    """For frames of a shape (C, H, W)."""
    return Discriminator(shape[0])
