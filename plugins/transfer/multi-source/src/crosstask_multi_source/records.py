"""What a transfer from several sources comes to."""

from __future__ import annotations

from crosstask.options import record
from crosstask.records import Cost, Interval, SeveralResult

SINGLE = "single"
"""The candidate that is always there."""


@record
class Candidate:
    """One way to learn the target, judged on its validation data.

    `validation` is its score there, `gain` what it is better than the best single source, with the standard error by
    bootstrap over the samples; None for one that was left out, for the `reason`.
    """

    name: str
    sources: tuple[str, ...] = ()
    validation: float | None = None
    gain: float | None = None
    error: float | None = None
    cost: Cost | None = None
    reason: str = ""


@record
class MultiSourceResult(SeveralResult):
    """As `SeveralResult`. `chosen` is how the target was learned, `candidates` (where there was a choice) what it was
    chosen from, `judged_on` on what, and `gain` what was gained over the best single source, seed by seed. `search` is
    what all candidates took together.
    """

    chosen: str = ""
    gain: Interval | None = None
    candidates: tuple[Candidate, ...] = ()
    judged_on: str = ""
    search: Cost | None = None

    def _rows(self) -> tuple[object, ...]:
        return self.candidates or (self,)


@record
class MultiSourceReport:
    """What the stage found: one result for each target."""

    results: tuple[MultiSourceResult, ...]
