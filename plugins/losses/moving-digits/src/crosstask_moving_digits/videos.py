"""Real images of digits that fly over a dark field and bounce at its edges."""

from __future__ import annotations

import functools
from typing import Any

import attrs
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.options import component, option
from crosstask.points.source import Source
from crosstask.tasks import Portfolio, Task

SIDE = 8
"""Of scikit-learn's images."""


@attrs.frozen(eq=False)
class Videos:
    """`observations` [N, T, 1, size, size] from 0 to 1, `actions` [N, T, 2]: the movement (x, y) in pixels to the next
    frame, `labels` [N]: which digit flies (the first, where there are several).
    """

    observations: Tensor
    actions: Tensor
    labels: Tensor


def moving_digits(
    count: int, steps: int = 6, size: int = 16, *, digits: int = 1, first: int = 0, seed: int = 0
) -> Videos:
    """`count` sequences of `steps` frames, from the images of scikit-learn's digits from number `first` on, in turn.

    Each of the `digits` starts at a place of its own and moves by one or two pixels along each axis in every step,
    turned back at the edges; where they overlap the brighter pixel is seen. All of it follows from `seed`.
    """
    images, labels = _digits()
    if not 0 <= first < len(images) or count < 1 or steps < 1 or size < SIDE or digits < 1:
        raise DataError(
            f"moving_digits: count, steps and digits must be at least 1, size at least {SIDE}, first from 0 to "
            f"{len(images) - 1}; got {count}, {steps}, {digits}, {size} and {first}"
        )
    rng = torch.Generator().manual_seed(seed)
    room = size - SIDE
    which = (first + torch.arange(count * digits)) % len(images)
    place = torch.randint(0, room + 1, (count, digits, 2), generator=rng)
    speed = torch.randint(1, 3, (count, digits, 2), generator=rng).clamp_max(max(room, 1))
    speed = speed * (2 * torch.randint(0, 2, speed.shape, generator=rng) - 1)
    frames, moves = [], []
    for _ in range(steps):
        frames.append(_painted(images[which].view(count, digits, SIDE, SIDE), place, size))
        after = place + speed
        out = (after < 0) | (after > room)
        speed = torch.where(out, -speed, speed)
        after = (place + speed).clamp(0, room)
        moves.append((after - place)[:, 0].flip(-1).to(torch.float32))  # (row, column) becomes (x, y)
        place = after
    made = labels[which].view(count, digits)[:, 0]
    return Videos(torch.stack(frames, 1)[:, :, None], torch.stack(moves, 1), made)


def _painted(images: Tensor, place: Tensor, size: int) -> Tensor:
    """Frames [N, size, size] with images [N, D, 8, 8] at places [N, D, 2] (row, column)."""
    inside = torch.arange(SIDE)
    rows = (place[..., 0, None] + inside)[..., :, None]
    columns = (place[..., 1, None] + inside)[..., None, :]
    field = images.new_zeros(*images.shape[:2], size * size)
    return field.scatter(2, (rows * size + columns).flatten(2), images.flatten(2)).amax(1).view(-1, size, size)


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    found: Any = load_digits()
    return torch.tensor(found.images / 16.0, dtype=torch.float32), torch.tensor(found.target)


@component
class MovingDigits(Source):
    """One task, `moving_digits`: sequences of a flying digit. Its labels say which digit it is; objectives look at the
    inputs alone. Training sequences show scikit-learn's images from the first on, test sequences those from the 1200th.
    """

    train: int = option(1000, ge=1, le=1200, help="sequences to learn from")
    test: int = option(200, ge=1, le=597, help="sequences to be judged on")
    steps: int = option(6, ge=2, help="frames of a sequence")
    size: int = option(16, ge=8, help="pixels of a side")
    seed: int = option(0, ge=0, help="of places and movements")

    def load(self) -> Portfolio:
        train = moving_digits(self.train, self.steps, self.size, seed=2 * self.seed + 2)
        test = moving_digits(self.test, self.steps, self.size, first=1200, seed=2 * self.seed + 3)
        shape = (self.steps, 1, self.size, self.size)
        descriptor = TaskDescriptor(
            task_id="moving_digits",
            input_shape=shape,
            output_dim=10,
            sample_count=self.train,
            classes=tuple("0123456789"),
            domain="video",
            required_skills=("strokes", "digit_shapes", "movement"),
            domain_knowledge=("digits",),
        )
        splits = [(each.observations, each.labels) for each in (train, test)]
        return Portfolio([Task(descriptor=descriptor, train=splits[0], test=splits[1])])
