"""Tasks with a low score more often."""

from __future__ import annotations

import math

from crosstask.errors import RunError
from crosstask.options import component, option
from crosstask_multitask.sampler import History
from crosstask_scheduler.drawing import Adaptive


@component
class Performance(Adaptive):
    """p_t = softmax(need_t / temperature), need_t what the task's recent scores leave to be gained: 1 - accuracy.

    Scores are those of the validation data, measured every `evaluate_every` steps of the budget; the mean of the last
    `window` counts. A metric with another range is scaled to 0..1; one that has a best score and no worst (an error)
    counts relative to the task's first score. RunError for a task without validation data, or without a best score.
    """

    update_frequency: int = option(20, ge=1, help="steps between two looks at the scores")
    window: int = option(10, ge=1, help="how many of the latest scores count")

    def known(self, task: str, history: History) -> list[float]:
        scores = getattr(history, "scores", {})
        if task not in scores:
            raise RunError(f"{self.origin}: task {task!r} is not measured: it needs validation data")
        found: list[float] = scores[task]
        return found

    def score(self, task: str, history: History) -> float:
        scores = self.known(task, history)
        latest = scores[-self.window :]
        low, high = history.ranges.get(task, (0.0, 1.0))
        if math.isinf(high):
            raise RunError(f"{self.origin}: the metric of task {task!r} has no best score; draw by losses instead")
        low = scores[0] if math.isinf(low) else low
        return (high - sum(latest) / len(latest)) / (high - low) if high > low else 0.0
