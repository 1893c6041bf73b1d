"""What the right class was given."""

from __future__ import annotations

from torch import Tensor

from crosstask.options import component, option
from crosstask_example_family.contract import ExampleFamily


@component
class Likely(ExampleFamily):
    """The mean probability of the right class, by the softmax of outputs divided by `temperature`."""

    temperature: float = option(1.0, gt=0, help="above 1: less sure")

    def measure(self, outputs: Tensor, targets: Tensor) -> float:
        probabilities = (outputs.double() / self.temperature).softmax(dim=1)
        return float(probabilities.gather(1, targets[:, None]).mean())
