"""What tests of monitoring share: streams with a known drop, and the smallest right detector."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crosstask.manifest import Extension, Plugin
from crosstask.options import component, option
from crosstask_monitoring.contract import Detector, Evidence, lower_bound, pooled, rows_of, scaled
from crosstask_monitoring.plugin import PLUGIN


def accuracies(share: float, records: int, samples: int = 40, seed: int = 0) -> Tensor:
    """Records [T, 2] of accuracies of so many samples each, right with probability `share`."""
    generator = torch.Generator().manual_seed(seed)
    right = torch.rand(records, samples, generator=generator) < share
    return rows_of(right.double().mean(1).tolist(), samples)


@component
class ReferenceDetector(Detector):
    """A bound on each record's mean by itself (Hoeffding 1963), its error shared out: 1 / (t (t + 1)) of it at t."""

    capabilities = frozenset({"anytime"})

    alpha: float = option(0.01, gt=0, lt=1, help="the chance of ever a false alarm")

    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        self.check_scores(reference, stream, limits)
        level = lower_bound(*pooled(scaled(reference, limits)), self.alpha / 2)
        found = []
        for t, (score, samples) in enumerate(scaled(stream, limits).tolist(), 1):
            gap = max(0.0, level - score)
            found.append(2 * samples * gap * gap - math.log(2 * t * (t + 1) / self.alpha))
        return Evidence(statistic=tuple(found), threshold=0.0)


REFERENCE = Plugin(
    "reference-detectors",
    api=(2, 0),
    points=PLUGIN.points,
    extensions=[
        *(offer for offer in PLUGIN.extensions if offer.point == "stage"),
        Extension("detector", "reference", f"{__name__}:ReferenceDetector", summary="For checks.", default=True),
    ],
)
"""For a registry of references: `crosstask.testing.reference_registry(REFERENCE)`."""
