"""A component made of components of the same point."""

from __future__ import annotations

from torch import Tensor

from crosstask.options import component
from crosstask.parts import Part, part
from crosstask_example_family.contract import ExampleFamily


@component
class Worst(ExampleFamily):
    """The lowest of several scores: what all of them grant."""

    parts: tuple[Part, ...] = part("example_family", ("balanced", "likely"), help="the scores to take the lowest of")

    def measure(self, outputs: Tensor, targets: Tensor) -> float:
        return min(float(each.measure(outputs, targets)) for each in self.made_of("parts"))
