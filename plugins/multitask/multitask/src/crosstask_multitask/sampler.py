"""Samplers: which tasks take part in the next step of joint training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch

from crosstask.components import Component, hook


class History(dict[str, list[float]]):
    """Each task's losses so far, as a dict; `scores` are those that were measured of it so far.

    `scores` has the tasks with validation data, whose metric is measured now and then (higher is better); `ranges` says
    of each what its scores can be, infinite where there is no limit.
    """

    def __init__(
        self,
        losses: Mapping[str, list[float]] | None = None,
        *,
        scores: Mapping[str, list[float]] | None = None,
        ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        super().__init__(losses or {})
        self.scores, self.ranges = dict(scores or {}), dict(ranges or {})


class Sampler(Component):
    """Chooses tasks for a step from what is known of their losses and scores."""

    point: ClassVar[str] = "sampler"

    @abstractmethod
    @hook(first=True, returns=list, of=str)
    def sample(self, tasks: list[str], history: History, rng: torch.Generator) -> list[str]:
        """Tasks of the next step, at least one, in the order of `tasks`. `history[task]` holds the task's losses so
        far, `history.scores[task]` what was measured on its validation data.
        """

    def chances(self, tasks: list[str], history: History) -> dict[str, float]:
        """How probable each of the tasks is to be drawn next (with sum 1); changes nothing. Even, unless a sampler
        knows better.
        """
        return dict.fromkeys(tasks, 1 / len(tasks)) if tasks else {}
