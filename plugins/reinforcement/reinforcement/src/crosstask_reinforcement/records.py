"""What a stage `reinforcement` comes to."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from crosstask.options import record
from crosstask.records import Interval, LearningCurve
from crosstask.showing import Shown
from crosstask_reinforcement.training import Trained


@record
class MeasuredTransfer:
    """How much sooner a task was solved from another's weights, over seeds.

    `steps` and `scratch_steps` are environment steps to a mean greedy return of `level`, with and without the source,
    by seed; None where that was not reached within `budget`, which then counts as reached at its end. `coefficient` is
    the share of the steps that was saved, between -1 and 1: what transfer saved of those from scratch or, where it
    took longer, what scratch would have saved of those with transfer. `speed_gain` is the mean (geometric) of steps
    from scratch over steps with transfer; None where neither ever reached it. `taken` are the tensors taken over.
    """

    source: str
    target: str
    level: float
    budget: int
    steps: tuple[int | None, ...]
    scratch_steps: tuple[int | None, ...]
    coefficient: Interval
    speed_gain: float | None = None
    speed_capped: bool = False
    taken: tuple[str, ...] = ()


@record
class ReinforcementResult(Shown):
    """Tasks learned together by acting, over seeds.

    `returns` are the mean returns of greedy episodes at the end of training, by task; `levels` from which a task counts
    as solved (none where nobody says); `solved` in how many seeds it was, at the end; `steps_to_solve` the mean number
    of environment steps, of all tasks together, after which it stayed so (None unless it was in every seed). `trained`
    are the trainings, one for each seed; `transfers` what was measured between tasks, each learned alone.
    """

    tasks: tuple[str, ...]
    agent: str
    returns: dict[str, Interval]
    levels: dict[str, float]
    solved: dict[str, int]
    steps_to_solve: dict[str, float | None]
    trained: tuple[Trained, ...]
    transfers: tuple[MeasuredTransfer, ...] = ()
    transferred: str = "shared"
    steps: int = 0
    episodes: int = 0
    notes: tuple[str, ...] = ()
    seed: int = 0
    seeds: int = 1
    options: dict[str, Any] = attrs.field(factory=dict)

    @property
    def all_solved(self) -> int:
        """In how many seeds every task was solved at the end."""
        return sum(each.solved for each in self.trained)

    def mean_curve(self, task: str, points: int = 40) -> LearningCurve:
        """The mean over the seeds; one that ended early goes on with its last value."""
        curves = [each.curves[task] for each in self.trained]
        grid = np.linspace(min(c.steps[0] for c in curves), max(c.steps[-1] for c in curves), points)
        mean = np.mean([np.interp(grid, c.steps, c.values) for c in curves], axis=0)
        return LearningCurve(steps=tuple(map(round, grid.tolist())), values=tuple(mean.tolist()))

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {
                "task": task,
                "return": self.returns[task].mean,
                "low": self.returns[task].low,
                "high": self.returns[task].high,
                "solved from": self.levels.get(task),
                "solved in seeds": self.solved[task],
                "steps to solve": self.steps_to_solve[task],
            }
            for task in self.tasks
        ]

    def _headline(self) -> str:
        return f"{len(self.tasks)} tasks by {self.agent}: all solved in {self.all_solved} of {self.seeds} seeds"
