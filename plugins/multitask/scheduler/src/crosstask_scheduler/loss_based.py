"""Tasks with a high loss more often."""

from __future__ import annotations

from crosstask.options import component
from crosstask_multitask.sampler import History
from crosstask_scheduler.drawing import Adaptive


@component
class LossBased(Adaptive):
    """p_t = softmax(mean recent loss of t / temperature).

    Losses are compared as they are: for tasks whose losses have different units take `performance_based`.
    """

    def score(self, task: str, history: History) -> float:
        return self.recent(self.known(task, history))
