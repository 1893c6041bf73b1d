"""What transfers under shift come to."""

from __future__ import annotations

from typing import Any

import attrs

from crosstask.options import record
from crosstask.records import Interval
from crosstask.showing import Shown


@record
class ShiftRow:
    """One way to learn a target: from `source` by `method`, or from scratch (source None).

    `clean` is the test score on the data as they are, `scores` those by shift, one for each severity. `gain` and
    `gains` are the differences to training from scratch, seed by seed, with the intervals of these differences (none
    for scratch itself).
    """

    target: str
    source: str | None
    method: str
    clean: Interval
    scores: dict[str, tuple[Interval, ...]]
    gain: Interval | None = None
    gains: dict[str, tuple[Interval, ...]] = attrs.field(factory=dict)

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return "scratch" if self.source is None else f"{self.source}, {self.method}"

    @property
    def mean(self) -> float:
        """Mean score over all shifts and severities."""
        found = [each.mean for values in self.scores.values() for each in values]
        return sum(found) / len(found)

    @property
    def stays(self) -> tuple[str, ...]:
        """The shifts at all of whose severities the gain lies above zero with its whole interval."""
        return tuple(name for name, values in self.gains.items() if all(each.low > 0 for each in values))

    @property
    def turns(self) -> tuple[str, ...]:
        """The shifts at one of whose severities it is worse than scratch beyond doubt."""
        return tuple(name for name, values in self.gains.items() if any(each.high < 0 for each in values))


@record
class ShiftResult(Shown):
    """Transfers judged on shifted versions of the targets' test data. `adversarial`, among the shifts, is the worst
    case found in a ball of `radius` times severity times the width of the inputs' range.
    """

    metric: str
    severities: tuple[int, ...]
    shifts: tuple[str, ...]
    rows: tuple[ShiftRow, ...]
    chances: dict[str, float] = attrs.field(factory=dict)
    radius: float = 0.0
    notes: tuple[str, ...] = ()
    seed: int = 0
    seeds: int = 1
    options: dict[str, Any] = attrs.field(factory=dict)

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"target": row.target, "learned from": row.name, "clean": row.clean.mean, "shifted": row.mean,
             **{name: values[-1].mean for name, values in row.scores.items()}} for row in self.rows
        ]  # fmt: skip

    def _headline(self) -> str:
        return f"{self.metric} under {len(self.shifts)} shifts"
