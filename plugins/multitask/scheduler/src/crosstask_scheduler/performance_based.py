"""Tasks that make little progress more often."""

from __future__ import annotations

from crosstask.options import component
from crosstask_multitask.sampler import History
from crosstask_scheduler.drawing import Adaptive


@component
class PerformanceBased(Adaptive):
    """p_t = softmax(r_t / temperature), r_t the recent loss of t relative to its first: the share still to be learned.

    The inverse training rate of GradNorm (Chen et al. 2018, section 3.2), used to choose tasks; it has no unit. A first
    loss of zero counts as nothing left to learn.
    """

    def score(self, task: str, history: History) -> float:
        losses = self.known(task, history)
        return self.recent(losses) / losses[0] if losses[0] else 0.0
