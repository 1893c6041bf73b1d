"""What monitoring comes to: entries of a history, readings, comparisons and operations."""

from __future__ import annotations

import attrs

from crosstask.options import option, record
from crosstask.records import Curriculum, Interval
from crosstask.showing import Shown


@record
class Entry:
    """One line of a task's history, of the model with this digest (a scored model without one: "").

    `kind`: `reference` (a score of the healthy model), `score`, `alarm`, `replaced`, `kept` (a candidate was refused)
    or `rolled_back`. `after` is the digest of the model that is in place from here on, where that changed.
    """

    task: str
    model: str = ""
    kind: str = option(
        "score", choices=("reference", "score", "alarm", "replaced", "kept", "rolled_back"), help="what was written"
    )
    metric: str = ""
    score: float | None = None
    samples: int = option(1, ge=1, help="labelled samples behind the score")
    when: str = ""
    after: str = ""
    note: str = ""


@record
class Reading(Shown):
    """What a detector makes of a task's scores since its model is in place."""

    task: str
    model: str
    metric: str
    detector: str
    records: int
    samples: int
    reference: Interval
    recent: Interval | None = None
    statistic: tuple[float, ...] = ()
    threshold: float = 0.0
    alarm_at: int | None = None
    began: int | None = None

    @property
    def alarm(self) -> bool:
        """Whether the score has dropped."""
        return self.alarm_at is not None

    def _headline(self) -> str:
        if self.alarm_at is None:
            return f"{self.task}: no drop in {self.records} records"
        return f"{self.task}: dropped, found at record {self.alarm_at}, probably since record {self.began}"


@record
class Comparison:
    """Two models on the same samples: scores, their difference with a 95 % interval, and the probability of as large a
    difference where the new one is no better.
    """

    old: float
    new: float
    difference: Interval
    p_value: float
    test: str
    samples: int
    alpha: float = 0.05
    least: float = 0.0

    @property
    def better(self) -> bool:
        """Whether the new one is better, by more than `least` and by more than noise."""
        return self.p_value <= self.alpha and self.difference.mean > self.least


@record
class Operation(Shown):
    """One attempt to heal a task. `outcome`: `replaced`, `kept` (the candidate was not better) or `healthy` (there was
    nothing to heal, and nothing was trained). `old` and `new` are digests of the models.
    """

    task: str
    outcome: str = option("healthy", choices=("replaced", "kept", "healthy"), help="what was done")
    metric: str = ""
    reason: str = ""
    comparison: Comparison | None = None
    curriculum: Curriculum | None = None
    reached_from: str = ""
    steps: int = 0
    samples: dict[str, int] = attrs.field(factory=dict)
    old: str = ""
    new: str = ""

    @property
    def replaced(self) -> bool:
        """Whether the model was replaced."""
        return self.outcome == "replaced"

    def _headline(self) -> str:
        return f"{self.task}: {self.outcome}; {self.reason}"


@record
class Phase:
    """A part of a stream: whose samples came, from which record on. `before` is the score of the first model on samples
    that no model has learned from, `after` that of the model in place at the end of the stream.
    """

    task: str
    start: int
    records: int
    before: float
    after: float
    samples: int


@record
class HealResult(Shown):
    """A stream of scores of a task, what the detector made of it, and what was done.

    `alarms` and `operated` are numbers of records, `operations` what was done at each of the latter, `readings` the
    last of each model that was in place, which began at the records `placed`.
    """

    task: str
    metric: str
    detector: str
    batch: int
    scores: tuple[float, ...]
    reference: Interval
    phases: tuple[Phase, ...]
    alarms: tuple[int, ...] = ()
    operated: tuple[int, ...] = ()
    operations: tuple[Operation, ...] = ()
    readings: tuple[Reading, ...] = ()
    placed: tuple[int, ...] = ()

    def _rows(self) -> tuple[Phase, ...]:
        return self.phases

    def _headline(self) -> str:
        replaced = sum(each.replaced for each in self.operations)
        return f"{self.task}: {len(self.scores)} records, {len(self.alarms)} alarms, {replaced} replacements"
