"""What joint training came to."""

from __future__ import annotations

from typing import Any

import attrs

from crosstask.options import option, record
from crosstask.records import Interval
from crosstask.showing import Shown
from crosstask_multitask.sharing import SharingMatrix


@record
class MultiTaskResult(Shown):
    """Tasks trained together. Scores per task on the test split, with their intervals; `losses`, `weights` (of the
    tasks, from the balancer) and `conflicts` have a value for each of the recorded `steps`.

    `metrics` names what each task is judged by (higher is better); `gains` are the differences between together and
    alone, with what they can be at all, as one training says no more of their spread; `chances` the scores of a model
    that has learned nothing (`crosstask.learning.objectives.chance`). `notes` say what a reader may not
    expect, such as a task whose own model was not used.

    `learned` is what the module has learned of sharing, measured on test samples of each task.

    `start` says whose trunk it started from and `adapter` what was trained on it, if anything; `trained_weights` of the
    module's `all_weights` were trained, the others were frozen.
    """

    tasks: tuple[str, ...]
    balancer: str
    sharing: str
    scores: dict[str, float]
    single_task_scores: dict[str, float]
    metrics: dict[str, str] = attrs.field(factory=dict)
    intervals: dict[str, Interval] = attrs.field(factory=dict)
    gains: dict[str, Interval] = attrs.field(factory=dict)
    chances: dict[str, float] = attrs.field(factory=dict)
    steps: tuple[int, ...] = ()
    losses: dict[str, tuple[float, ...]] = attrs.field(factory=dict)
    weights: dict[str, tuple[float, ...]] = attrs.field(factory=dict)
    conflicts: dict[str, tuple[float, ...]] = attrs.field(factory=dict)
    learned: tuple[SharingMatrix, ...] = ()
    start: str | None = None
    adapter: str | None = None
    trained_weights: int | None = option(None, ge=0, help="numbers that the optimiser may change")
    all_weights: int | None = option(None, ge=0, help="numbers in the parameters of the module")
    notes: tuple[str, ...] = ()
    stopped: str = ""
    seed: int = 0
    options: dict[str, Any] = attrs.field(factory=dict)

    @property
    def learned_nothing(self) -> list[str]:
        """The tasks whose score is not above chance."""
        return [task for task, chance in self.chances.items() if self.scores[task] <= chance + 1e-9]

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for task in self.tasks:
            spread, gain = self.intervals.get(task), self.gains.get(task)
            rows.append(
                {
                    "task_id": task, "metric": self.metrics.get(task), "together": self.scores.get(task),
                    "together_low": spread and spread.low, "together_high": spread and spread.high,
                    "alone": self.single_task_scores.get(task), "gain": gain and gain.mean,
                    "gain_low": gain and gain.low, "gain_high": gain and gain.high, "chance": self.chances.get(task),
                }
            )  # fmt: skip
        return rows

    def _headline(self) -> str:
        return f"Trained together by {self.balancer}"
