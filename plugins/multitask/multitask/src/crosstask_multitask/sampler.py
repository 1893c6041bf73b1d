"""Samplers: which tasks take part in the next step of joint training."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch

from crosstask.components import Component, hook


class Sampler(Component):
    """Chooses tasks for a step from what is known of their losses and scores."""

    point: ClassVar[str] = "sampler"

    @abstractmethod
    @hook(first=True, returns=list, of=str)
    def sample(self, tasks: list[str], history: dict[str, list[float]], rng: torch.Generator) -> list[str]:
        """Tasks of the next step, at least one, in the order of `tasks`. `history` holds each task's losses so far."""
