"""Shifts that happen: noise, blur, rotation, contrast, inversion, occlusion, features that are missing."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from crosstask.errors import DataError, nearest
from crosstask.options import structure
from crosstask_shifted.ranges import Range

Corruption = Callable[[Tensor, int, Range, torch.Generator], Tensor]

# By severity 1 to 5; noise and contrast as in ImageNet-C (Hendrycks, Dietterich 2019), for values from 0 to 1
NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)
CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
BLUR = (0.02, 0.04, 0.06, 0.09, 0.12)
"""Standard deviation as a part of the shorter side."""
ROTATION = (10.0, 20.0, 30.0, 45.0, 60.0)
INVERSION = (0.2, 0.4, 0.6, 0.8, 1.0)
OCCLUSION = (0.2, 0.3, 0.4, 0.5, 0.6)
"""Side of the square as a part of the shorter side."""
DROPOUT = (0.1, 0.2, 0.3, 0.4, 0.5)


def _normal(inputs: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(inputs.shape, generator=generator).to(inputs)


def noise(inputs: Tensor, severity: int, known: Range, generator: torch.Generator) -> Tensor:
    """Gaussian noise, of images by the width of the range, of tables by each feature's standard deviation."""
    scale = known.spread if inputs.ndim == 2 else known.width
    return known.inside(inputs + NOISE[severity - 1] * scale.to(inputs) * _normal(inputs, generator))


def dropout(inputs: Tensor, severity: int, known: Range, generator: torch.Generator) -> Tensor:
    """Some numbers of each sample are missing: the training data's mean stands there."""
    gone = torch.rand(inputs.shape, generator=generator).to(inputs.device) < DROPOUT[severity - 1]
    return torch.where(gone, known.mean.to(inputs), inputs)


def blur(inputs: Tensor, severity: int, known: Range, generator: torch.Generator) -> Tensor:
    """Each channel smoothed by a Gaussian."""
    sigma = BLUR[severity - 1] * min(inputs.shape[-2:])
    reach = min(math.ceil(3 * sigma), min(inputs.shape[-2:]) - 1)
    weights = torch.exp(-(torch.arange(-reach, reach + 1, dtype=inputs.dtype) ** 2) / (2 * sigma**2)).to(inputs.device)
    weights = weights / weights.sum()
    channels = inputs.shape[1]
    padded = functional.pad(inputs, (reach,) * 4, mode="reflect")
    across = functional.conv2d(padded, weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return functional.conv2d(across, weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def rotation(inputs: Tensor, severity: int, known: Range, generator: torch.Generator) -> Tensor:
    """Each image turned, to the one side or the other; what comes from outside is the least value."""
    side = torch.randint(0, 2, (len(inputs),), generator=generator) * 2 - 1
    angle = side.to(inputs) * math.radians(ROTATION[severity - 1])
    zero = torch.zeros_like(angle)
    rows = [torch.stack([angle.cos(), -angle.sin(), zero], 1), torch.stack([angle.sin(), angle.cos(), zero], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), list(inputs.shape), align_corners=False)
    low = known.low.to(inputs)
    return functional.grid_sample(inputs - low, grid, align_corners=False) + low


def contrast(inputs: Tensor, severity: int, known: Range, generator: torch.Generator) -> Tensor:
    """Values nearer to each image's mean."""
    mean = inputs.flatten(1).mean(1).view(-1, *[1] * (inputs.ndim - 1))
    return mean + CONTRAST[severity - 1] * (inputs - mean)


def inversion(inputs: Tensor, severity: int, known: Range, generator: torch.Generator) -> Tensor:
    """Dark and bright exchanged, part of the way, at 5 wholly."""
    share = INVERSION[severity - 1]
    return (1 - share) * inputs + share * (known.low.to(inputs) + known.high.to(inputs) - inputs)


def occlusion(inputs: Tensor, severity: int, known: Range, generator: torch.Generator) -> Tensor:
    """A square anywhere in each image at the middle of the range."""
    height, width = inputs.shape[-2:]
    side = max(1, round(OCCLUSION[severity - 1] * min(height, width)))
    top = torch.randint(0, height - side + 1, (len(inputs), 1, 1, 1), generator=generator)
    left = torch.randint(0, width - side + 1, (len(inputs), 1, 1, 1), generator=generator)
    rows, columns = torch.arange(height).view(1, 1, -1, 1), torch.arange(width).view(1, 1, 1, -1)
    hidden = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return torch.where(hidden.to(inputs.device), ((known.low + known.high) / 2).to(inputs), inputs)


IMAGES: dict[str, Corruption] = {
    "noise": noise, "blur": blur, "rotation": rotation, "contrast": contrast, "inversion": inversion,
    "occlusion": occlusion, "dropout": dropout,
}  # fmt: skip
TABLES: dict[str, Corruption] = {"noise": noise, "dropout": dropout}
CORRUPTIONS = tuple(IMAGES)
"""All of them; of inputs that are no images (channels, height, width) those in `TABLES`."""


def fitting(inputs: Tensor) -> dict[str, Corruption]:
    """The corruptions that inputs [N, …] can have."""
    return IMAGES if inputs.ndim == 4 and min(inputs.shape[-2:]) >= 4 else TABLES


def corrupted(name: str, inputs: Tensor, severity: int, known: Range, generator: torch.Generator) -> Tensor:
    """Inputs [N, …] shifted, in their range. DataError for a corruption that they cannot have, or a severity that is
    none of 1 to 5.
    """
    known_names = fitting(inputs)
    if name not in known_names:
        what = "images" if known_names is IMAGES else f"inputs of shape {tuple(inputs.shape[1:])}"
        raise DataError(f"{what} cannot have the corruption {name!r}{nearest(name, known_names)}")
    if not 1 <= structure(severity, int, "severity") <= 5:
        raise DataError(f"severity is 1 to 5, got {severity}")
    return known.inside(known_names[name](inputs, severity, known, generator))
