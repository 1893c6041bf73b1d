"""What joint training came to."""

from __future__ import annotations

from typing import Any

import attrs

from crosstask.options import option, record
from crosstask.records import Interval


@record
class MultiTaskResult:
    """Tasks trained together. Scores per task on the test split, with their intervals; `losses`, `weights` (of the
    tasks, from the balancer) and `conflicts` have a value for each of the recorded `steps`.

    `metrics` names what each task is judged by (higher is better); `gains` are the differences between together and
    alone, with what they can be at all, as one training says no more of their spread. `notes` say what a reader may not
    expect, such as a task whose own model was not used.

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
    steps: tuple[int, ...] = ()
    losses: dict[str, tuple[float, ...]] = attrs.field(factory=dict)
    weights: dict[str, tuple[float, ...]] = attrs.field(factory=dict)
    conflicts: dict[str, tuple[float, ...]] = attrs.field(factory=dict)
    start: str | None = None
    adapter: str | None = None
    trained_weights: int | None = option(None, ge=0, help="numbers that the optimiser may change")
    all_weights: int | None = option(None, ge=0, help="numbers in the parameters of the module")
    notes: tuple[str, ...] = ()
    stopped: str = ""
    seed: int = 0
    options: dict[str, Any] = attrs.field(factory=dict)
