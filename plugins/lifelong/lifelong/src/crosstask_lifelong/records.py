"""What a lifelong run found, as `run.json` keeps it."""

from __future__ import annotations

from typing import Any

from crosstask.learning.metrics import confidence_interval
from crosstask.options import record
from crosstask.records import Interval
from crosstask.showing import Shown

_ENDS = {"": "mean", "_low": "low", "_high": "high"}


@record
class Arrival:
    """A task that has arrived: of `known` tasks so many were looked at, these `tried` by training, from `source` it was
    learned (None: from scratch, where nothing that was tried promised to help).

    `expected` is the coefficient that the source was chosen for; `gain` what that brought on the test data over
    scratch, in the metric (None: it could not be judged, and `notes` say why). `trainings` counts all that were done
    for it, its own model included; what was judged to compare is not among them. With `compare`: `regret` is how much
    more the `best` of the sources compared brings, `random_gain` what one drawn at random brings on average,
    `tried_gain` the best of so many drawn at random and tried in the same way.
    """

    task: str
    known: int
    looked_at: int = 0
    tried: tuple[str, ...] = ()
    source: str | None = None
    expected: float | None = None
    gain: Interval | None = Interval(mean=0.0, low=0.0, high=0.0)
    trainings: int = 0
    best: str | None = None
    regret: float | None = None
    random_gain: float | None = None
    tried_gain: float | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


@record
class LifelongResult(Shown):
    """The arrivals in order. `repeats` is from how many seeds a pair was measured; `seconds` are of one CPU thread."""

    arrivals: tuple[Arrival, ...]
    per_task: int
    repeats: int | None = None
    seed: int = 0

    @property
    def later(self) -> tuple[Arrival, ...]:
        """Those before which another task was known."""
        return tuple(each for each in self.arrivals if each.known)

    @property
    def gain(self) -> Interval | None:
        """Over scratch, mean over the later arrivals that could be judged, with its 95 % interval over tasks; None if
        none of them could.
        """
        known = [each.gain.mean for each in self.later if each.gain is not None]
        return confidence_interval(known or [0.0]) if known or not self.later else None

    def over(self, control: str) -> Interval | None:
        """How much more than with a control (`random_gain`, `tried_gain`), pair by pair; None without one."""
        pairs = [
            (each.gain.mean, value)
            for each in self.later
            if each.gain is not None and (value := getattr(each, control)) is not None
        ]
        return confidence_interval([ours - theirs for ours, theirs in pairs]) if pairs else None

    @property
    def regret(self) -> Interval | None:
        """To the best of the sources compared, mean over the later arrivals; None where none were."""
        known = [each.regret for each in self.later if each.regret is not None]
        return confidence_interval(known) if known else None

    @property
    def pairs(self) -> int:
        """How many pairs were tried in all."""
        return sum(len(each.tried) for each in self.arrivals)

    def _rows(self) -> list[dict[str, Any]]:
        names = ("task", "known", "looked_at", "source", "expected", "trainings", "best", "regret", "random_gain",
                 "tried_gain", "seconds")  # fmt: skip
        return [
            {name: getattr(each, name) for name in names}
            | {"tried": ", ".join(each.tried)}
            | {f"gain{end}": getattr(each.gain, name, None) for end, name in _ENDS.items()}
            for each in self.arrivals
        ]

    def _headline(self) -> str:
        gain = "unknown" if self.gain is None else f"{self.gain.mean:+.3f}"
        return f"Lifelong: {len(self.arrivals)} arrivals, {self.pairs} pairs tried, mean gain {gain}"
