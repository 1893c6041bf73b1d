"""The right class among the first few."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from crosstask.options import component, option
from crosstask_example_family.contract import ExampleFamily


@component
class ExampleExampleFamily(ExampleFamily):
    """The share of samples whose class has one of the `most` largest outputs."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"answers_only"})

    most: int = option(2, ge=1, help="how far down the right class may be")

    def measure(self, outputs: Tensor, targets: Tensor) -> float:
        first = outputs.topk(min(self.most, outputs.shape[1]), dim=1).indices
        return float((first == targets[:, None]).any(dim=1).double().mean())
