"""What joint training came to."""

from __future__ import annotations

from typing import Any

import attrs

from crosstask.options import option, record


@record
class MultiTaskResult:
    """Tasks trained together. Scores per task on the test split; `losses`, `weights` (of the tasks, from the balancer)
    and `conflicts` have a value for each of the recorded `steps`.

    `start` says whose trunk it started from and `adapter` what was trained on it, if anything; `trained_weights` of the
    module's `all_weights` were trained, the others were frozen.
    """

    tasks: tuple[str, ...]
    balancer: str
    sharing: str
    scores: dict[str, float]
    single_task_scores: dict[str, float]
    steps: tuple[int, ...] = ()
    losses: dict[str, tuple[float, ...]] = attrs.field(factory=dict)
    weights: dict[str, tuple[float, ...]] = attrs.field(factory=dict)
    conflicts: dict[str, tuple[float, ...]] = attrs.field(factory=dict)
    start: str | None = None
    adapter: str | None = None
    trained_weights: int | None = option(None, ge=0, help="numbers that the optimiser may change")
    all_weights: int | None = option(None, ge=0, help="numbers in the parameters of the module")
    seed: int = 0
    options: dict[str, Any] = attrs.field(factory=dict)
