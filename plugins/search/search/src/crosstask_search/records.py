"""What a search comes to."""

from __future__ import annotations

from typing import Any

import attrs

from crosstask.errors import RunError
from crosstask.options import option, record
from crosstask.records import Budget, Interval, LearningCurve
from crosstask.showing import Shown


@record
class Trial:
    """One evaluation of a point of a search space. `value` is higher for better, None unless `status` is done."""

    number: int = option(ge=0, help="how many were proposed before it")
    point: dict[str, Any]
    status: str = option("running", choices=("running", "done", "failed"), help="how far it came")
    value: float | None = None
    error: str | None = None
    seconds: float = option(0.0, ge=0, help="what its evaluation took; 0 if the point had been evaluated before")


@record
class WarmStart:
    """A point that a search tries first, because it did well on a related task."""

    point: dict[str, Any]
    source: str = ""
    weight: float = option(1.0, help="how much is expected of it: the transfer coefficient times its rank there")


@record
class SearchResult(Shown):
    """What a search came to. `curve` is the best value so far, by the number of trials that had ended.

    The later fields are those of a search for a task's model: `best` was chosen on the validation split, `score` and
    `default_score` are on `split`, of the network that it describes and of the one a run trains by default, over the
    same seeds and with the same number of steps.
    """

    search: str
    trials: tuple[Trial, ...]
    best: Trial | None = None
    curve: LearningCurve = attrs.field(factory=LearningCurve)
    evaluated: int = option(0, ge=0, help="different points that were evaluated")
    seconds: float = option(0.0, ge=0, help="from the first proposal to the last trial's end")
    proposal_seconds: float = option(0.0, ge=0, help="part of it that the search took to propose")
    warm_starts: tuple[WarmStart, ...] = ()
    space: dict[str, Any] = attrs.field(factory=dict)
    seed: int = 0
    options: dict[str, Any] = attrs.field(factory=dict)
    task_id: str | None = None
    metric: str | None = None
    split: str | None = None
    model: dict[str, Any] = attrs.field(factory=dict)
    default_model: dict[str, Any] = attrs.field(factory=dict)
    budget: Budget | None = None
    score: Interval | None = None
    default_score: Interval | None = None
    gain: Interval | None = None
    judgement_errors: tuple[str, ...] = option((), help="which judgements failed, and why")

    def require_best(self) -> tuple[dict[str, Any], float]:
        """Point and value of the best trial. RunError, with the first reason, if none is done."""
        if self.best is None or self.best.value is None:
            told = f"all {len(self.trials)} evaluations failed"
            if self.trials:
                first = self.trials[0]
                told += f"; the first: {first.error} (trial {first.number}, at {first.point})"
            raise RunError(told)
        return self.best.point, self.best.value

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"trial": t.number + 1, **t.point, "value": t.value, "status": t.status, "seconds": t.seconds}
            for t in self.trials
        ]

    def _headline(self) -> str:
        return f"{self.search}: {len(self.trials)} trials, {self.failed} failed"

    @property
    def failed(self) -> int:
        """How many trials failed."""
        return sum(trial.status == "failed" for trial in self.trials)
