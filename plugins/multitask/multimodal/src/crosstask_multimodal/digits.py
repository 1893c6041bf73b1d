"""Handwritten digits as samples of several modalities: a small real table for the recipe and for tests."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from crosstask.descriptors import TaskDescriptor
from crosstask.tasks import Portfolio

LEVELS = 3
"""Words of a pixel with ink: a little, some, much."""

VOCAB_SIZES = {"peak": 8, "words": 1 + 32 * LEVELS}


def portfolio(rows: int | None = None, known: float = 0.7, seed: int = 0) -> Portfolio:
    """Pictures that come as three modalities: `left`, the left half's pixels, as numbers [32]; `words`, one for each
    pixel of the right half that has ink, by its place and how much (so that texts are of unlike lengths); `peak`, the
    row with most ink, as an id.

    Tasks: `digit` (10 classes), `even` (a single logit), `ink` (mean of all pixels, standardised). Each has a label for
    a part `known` of the rows. The first `rows` pictures are used, all by default: 2/3 to train, 1/6 to test.
    """
    images, digit = _loaded()
    pictures, labels = images[:rows].view(-1, 8, 8), digit[:rows]
    ink = pictures.mean(dim=(1, 2))
    count = len(pictures)
    inputs = {
        "left": pictures[:, :, :4].flatten(1) / 16,
        "words": _words(pictures[:, :, 4:].flatten(1)),
        "peak": pictures.sum(dim=2).argmax(dim=1),
    }
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=generator).tolist()
    first, second = 2 * count // 3, 5 * count // 6
    return Portfolio.from_table(
        inputs,
        {"digit": labels, "even": 1 - labels % 2, "ink": (ink - ink.mean()) / ink.std()},
        mask=torch.rand(count, 3, generator=generator) < known,
        descriptors={
            "digit": TaskDescriptor(task_id="digit", output_dim=10),
            "even": TaskDescriptor(task_id="even", output_dim=1),
            "ink": TaskDescriptor(task_id="ink", task_type="regression", output_dim=1),
        },
        splits={"train": order[:first], "validation": order[first:second], "test": order[second:]},
        name="digits in modalities",
    )


@functools.cache
def _loaded() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits  # deferred: crosstask-digits brings it

    images, digit = load_digits(return_X_y=True)
    return torch.from_numpy(images).float(), torch.from_numpy(digit)


def _words(pixels: Tensor) -> Tensor:
    """Texts [N, L] of the pixels [N, P] with ink (0 to 16), padded at the end."""
    level = ((pixels - 1).clamp_min(0) * LEVELS / 16).long()
    words = (1 + torch.arange(pixels.shape[1]) * LEVELS + level) * (pixels > 0)
    written = words > 0
    longest = int(written.sum(dim=1).max())
    first = written.long().argsort(dim=1, descending=True, stable=True)
    return words.gather(1, first)[:, :longest]
