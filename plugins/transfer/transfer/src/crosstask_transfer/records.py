"""What an explained transfer comes to."""

from __future__ import annotations

from typing import Any

import attrs

from crosstask.options import record
from crosstask.records import Budget, Interval
from crosstask.showing import Shown


@record
class BlockAttribution:
    """What one block of layers brought to a transfer; see `crosstask_transfer.attribution`.

    Scores with its weights drawn anew (`without`) and with only its weights transferred (`alone`), and the same as what
    was lost against the whole transfer and gained over scratch. `lost_frozen`: what keeping it as it is costs (None for
    a head). Shares are of the whole gain; None where that is not beyond doubt.
    """

    block: str
    weights: int
    without: Interval
    alone: Interval
    lost_without: Interval
    gained_alone: Interval
    lost_frozen: Interval | None = None
    share_lost: Interval | None = None
    share_alone: Interval | None = None


@record
class LayerAttribution(Shown):
    """Which layers carried a transfer: ablations with the budget and the seeds of the transfer itself."""

    source: str
    target: str
    strategy: str
    metric: str
    split: str
    gain: Interval
    blocks: tuple[BlockAttribution, ...]
    seed: int = 0
    seeds: int = 1
    budget: Budget = attrs.field(factory=Budget)
    options: dict[str, Any] = attrs.field(factory=dict)

    def _rows(self) -> tuple[BlockAttribution, ...]:
        return self.blocks

    def _headline(self) -> str:
        return f"What each layer brought from {self.source} to {self.target}"

    @property
    def carrier(self) -> BlockAttribution | None:
        """The block without which most was lost, if that loss is beyond doubt."""
        certain = [block for block in self.blocks if block.lost_without.low > 0]
        return max(certain, key=lambda block: block.lost_without.mean, default=None)
