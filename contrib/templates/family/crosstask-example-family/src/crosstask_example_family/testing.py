"""For tests, and for checks of wrappers: the smallest right component, and a plugin that offers it as `reference`."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from crosstask.manifest import Extension, Plugin
from crosstask.options import component, option
from crosstask_example_family.contract import ExampleFamily
from crosstask_example_family.plugin import PLUGIN


@component
class ReferenceExampleFamily(ExampleFamily):
    """The share of right answers, to a power."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"answers_only"})
    power: float = option(1.0, gt=0, help="above 1: stricter")

    def measure(self, outputs: Tensor, targets: Tensor) -> float:
        share = float((outputs.argmax(dim=1) == targets).double().mean())
        return math.pow(share, self.power)


REFERENCE = Plugin(
    "reference-example-family",
    points=PLUGIN.points,
    extensions=[
        Extension(
            "example_family",
            "reference",
            "crosstask_example_family.testing:ReferenceExampleFamily",
            summary="For checks.",
            default=True,
        ),
    ],
    api=(2, 0),
)
"""For a registry of references: `crosstask.testing.reference_registry(REFERENCE)`."""
