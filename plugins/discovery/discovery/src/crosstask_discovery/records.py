"""What discovery found, as `run.json` keeps it."""

from __future__ import annotations

from typing import Any

import attrs

from crosstask.options import record
from crosstask.showing import Shown


@record
class MeasuredPair:
    """A pair whose transfer was measured: the coefficient and its 95 % interval, where one is known."""

    source: str
    target: str
    mean: float
    low: float | None = None
    high: float | None = None


@record
class DiscoveryResult(Shown):
    """What the discoverers found: the graph in numbers (see `TransferGraph.metrics`), and what was measured for it.

    Pairs of which transfer was only estimated or predicted count neither in `measured` nor in
    `negative_transfer_pairs`. `impossible` lists the pairs between which it cannot be tried, and why. `gives` and
    `receives` are mean measured coefficients of a task as a source and as a target. `repeats` says from how many seeds
    a discoverer measures, by its name. `skipped` lists, by discoverer, the pairs that it left out and why. `seed` is
    that of the run.
    """

    tasks: int
    unseen_tasks: int = 0
    metrics: dict[str, Any] = attrs.field(factory=dict)
    measured: tuple[MeasuredPair, ...] = ()
    negative_transfer_pairs: int = 0
    impossible: tuple[tuple[str, str, str], ...] = ()
    gives: dict[str, float] = attrs.field(factory=dict)
    receives: dict[str, float] = attrs.field(factory=dict)
    repeats: dict[str, int] = attrs.field(factory=dict)
    skipped: dict[str, tuple[tuple[str, str, str], ...]] = attrs.field(factory=dict)
    seed: int = 0
    seconds: float = 0.0

    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [
            {
                "source": pair.source, "target": pair.target, "coefficient": pair.mean, "low": pair.low,
                "high": pair.high, "status": "measured", "reason": "",
            }
            for pair in self.measured
        ]  # fmt: skip
        left = [("impossible", self.impossible), *(("left out", pairs) for pairs in self.skipped.values())]
        for status, pairs in left:
            for source, target, reason in pairs:
                rows.append({"source": source, "target": target, "status": status, "reason": reason})
        return rows

    def _headline(self) -> str:
        return f"Discovery: {len(self.measured)} pairs measured, {len(self.impossible)} impossible"
