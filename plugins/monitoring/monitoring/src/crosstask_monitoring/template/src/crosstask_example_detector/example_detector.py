"""Records below a level, counted."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from crosstask.options import component, option
from crosstask_monitoring import Detector, Evidence, pooled


@component
class ExampleDetector(Detector):
    """Counts records in a row that lie several standard errors below the reference."""

    capabilities: ClassVar[frozenset[str]] = frozenset()

    errors: float = option(2.5, gt=0, help="standard errors below the reference that count")
    in_a_row: int = option(2, ge=1, help="so many such records, one after another, are an alarm")

    def read(self, reference: Tensor, stream: Tensor, limits: tuple[float, float]) -> Evidence:
        self.check_scores(reference, stream, limits)
        low, high = limits
        level, _ = pooled(reference)
        share = min(0.99, max(0.01, (level - low) / (high - low)))
        spread = (high - low) * math.sqrt(share * (1 - share))
        counts, count = [], 0.0
        for score, samples in stream.tolist():
            count = count + 1 if (level - score) * math.sqrt(samples) > self.errors * spread else 0.0
            counts.append(count)
        return Evidence(statistic=tuple(counts), threshold=float(self.in_a_row))
