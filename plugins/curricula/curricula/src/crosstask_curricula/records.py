"""What the stage `curriculum` comes to."""

from __future__ import annotations

from typing import Any

import attrs

from crosstask.options import record
from crosstask.records import CurriculumResult, Interval, TransferResult
from crosstask.showing import Shown
from crosstask_transfer.records import LayerAttribution


@record
class CurriculumComparison(Shown):
    """A curriculum that was run, beside other ways to its target.

    `baselines` are the target's scores by other ways, `transfers` those from the best single source, `attributions`
    which layers carried these, where that was asked for. `source_measured`: whether that source was the best by what
    had been measured; else it was only estimated or predicted to be.
    """

    curriculum: CurriculumResult
    baselines: dict[str, Interval] = attrs.field(factory=dict)
    transfers: tuple[TransferResult, ...] = ()
    attributions: tuple[LayerAttribution, ...] = ()
    source_measured: bool = True

    def _rows(self) -> list[dict[str, Any]]:
        last = self.curriculum.steps[-1:]
        ways = {"this curriculum": last[0].score, **self.baselines} if last else self.baselines
        return [{"way": way, "score": score.mean, "low": score.low, "high": score.high} for way, score in ways.items()]

    def _headline(self) -> str:
        return f"Ways to {self.curriculum.curriculum.target}, {self.curriculum.metric}"
