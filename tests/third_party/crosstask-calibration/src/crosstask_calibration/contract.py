"""Calibrators: what makes a model's confidence agree with how often it is right."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from crosstask.components import Component, hook
from torch import Tensor, nn


class Calibrator(Component):
    """Fits a map from logits to logits on held-out data.

    Capabilities: `keeps_the_answer` (the largest logit stays the largest: accuracy cannot change).
    """

    point: ClassVar[str] = "calibrator"

    @abstractmethod
    @hook(first=True, returns=nn.Module)
    def fit(self, logits: Tensor, labels: Tensor) -> nn.Module:
        """A module that maps logits [N, C] to calibrated logits [N, C], fitted on these with their labels [N]."""
