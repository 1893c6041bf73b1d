"""The contract: what every component of the point `example_family` does."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from crosstask.components import Component, hook


class ExampleFamily(Component):
    """Says how good the answers of a classifier are.

    Capabilities: `answers_only` (of each sample only counts which output is the largest).
    """

    point: ClassVar[str] = "example_family"

    @abstractmethod
    @hook(first=True, returns=float)
    def measure(self, outputs: Tensor, targets: Tensor) -> float:
        """The score of outputs [N, C] for the right classes [N], N at least 1: from 0 to 1, which is the best.

        It is 1 for outputs that leave no doubt and are right. The order of the samples does not matter.
        """
