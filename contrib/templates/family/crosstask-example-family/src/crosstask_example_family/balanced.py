"""Every class counts the same."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from crosstask.options import component
from crosstask_example_family.contract import ExampleFamily


@component
class Balanced(ExampleFamily):
    """The share of right answers among the samples of each class, averaged over the classes that there are."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"answers_only"})

    def measure(self, outputs: Tensor, targets: Tensor) -> float:
        right = (outputs.argmax(dim=1) == targets).double()
        shares = [right[targets == label].mean() for label in set(targets.tolist())]
        return float(sum(shares) / len(shares))
