"""What an explained transfer comes to."""

from __future__ import annotations

from typing import Any

import attrs

from crosstask.options import option, record
from crosstask.records import Budget, Interval
from crosstask.showing import Shown

LEVEL = 0.05
"""An effect whose adjusted p value is not above it is beyond the control."""


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
class Effect:
    """What a class or a skill of the source brought: `lost` without it, against the mean of the `control`, in which as
    many samples (units) were taken away at random. `removed` is how many. By the target's classes: the same of their
    recalls. `adjusted` are p values corrected for the number of effects that were looked at.
    """

    name: str
    removed: int
    control: float
    lost: Interval
    p_value: float
    adjusted: float = 1.0
    by_class: dict[str, Interval] = attrs.field(factory=dict)
    class_p: dict[str, float] = attrs.field(factory=dict)
    class_adjusted: dict[str, float] = attrs.field(factory=dict)

    @property
    def helps(self) -> bool:
        """Whether it helped beyond the control: more was lost without it, beyond chance."""
        return self.adjusted <= LEVEL and self.lost.mean > 0

    @property
    def harms(self) -> bool:
        """Whether less was lost without it than without anything else: beyond chance."""
        return self.adjusted <= LEVEL and self.lost.mean < 0


@record
class Causes(Shown):
    """What the source's classes (or skills) brought to a transfer; see `crosstask_transfer.causes`. `score` is that of
    the whole transfer, from a source that was trained again.
    """

    kind: str = option(choices=("classes", "skills"), help="what was taken away")
    source: str
    target: str
    metric: str
    score: Interval
    seeds: int = 1
    controls: int = 1
    target_classes: tuple[str, ...] = ()
    effects: tuple[Effect, ...] = ()

    @property
    def helping(self) -> tuple[str, ...]:
        """What helped beyond the control, most first."""
        found = sorted((each for each in self.effects if each.helps), key=lambda each: -each.lost.mean)
        return tuple(each.name for each in found)

    def _rows(self) -> tuple[Effect, ...]:
        return self.effects

    def _headline(self) -> str:
        return f"What {self.kind} of {self.source} brought to {self.target}"


@record
class LayerAttribution(Shown):
    """Which layers carried a transfer: ablations with the budget and the seeds of the transfer itself. `causes`: what
    the source's classes and skills brought, where that was asked for.
    """

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
    causes: tuple[Causes, ...] = ()

    def _rows(self) -> tuple[BlockAttribution, ...]:
        return self.blocks

    def _headline(self) -> str:
        return f"What each layer brought from {self.source} to {self.target}"

    @property
    def carrier(self) -> BlockAttribution | None:
        """The block without which most was lost, if that loss is beyond doubt."""
        certain = [block for block in self.blocks if block.lost_without.low > 0]
        return max(certain, key=lambda block: block.lost_without.mean, default=None)
