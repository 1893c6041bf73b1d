"""What the stage `curriculum` comes to."""

from __future__ import annotations

import attrs

from crosstask.options import record
from crosstask.records import CurriculumResult, Interval, TransferResult
from crosstask_transfer.records import LayerAttribution


@record
class CurriculumComparison:
    """A curriculum that was run, beside other ways to its target.

    `baselines` are the target's scores by other ways, `transfers` those from the best single source, `attributions`
    which layers carried these, where that was asked for.
    """

    curriculum: CurriculumResult
    baselines: dict[str, Interval] = attrs.field(factory=dict)
    transfers: tuple[TransferResult, ...] = ()
    attributions: tuple[LayerAttribution, ...] = ()
