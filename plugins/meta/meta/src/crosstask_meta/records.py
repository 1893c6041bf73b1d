"""What the few-shot stage leaves behind."""

from __future__ import annotations

from typing import Any

import attrs

from crosstask.options import option, record
from crosstask.records import Interval, LearningCurve
from crosstask.showing import Shown


@record
class FewShotResult(Shown):
    """A meta-learner that was trained on episodes of some classes (or tasks) and judged on those of others.

    `accuracy` is the mean over the test episodes with its 95 % interval; `untrained_accuracy` that of the same learner
    and network before meta-training, on the same episodes. `curve` is the accuracy on training episodes, averaged from
    one of its steps to the next.
    """

    learner: str
    tasks: tuple[str, ...]
    train: tuple[str, ...]
    test: tuple[str, ...]
    ways: int = option(ge=2, help="classes of an episode")
    shots: int = option(ge=1, help="support samples of each class")
    queries: int = option(ge=1, help="queries of each class")
    steps: int = option(ge=0, help="meta-steps")
    meta_batch: int = option(ge=1, help="episodes of a meta-step")
    accuracy: Interval
    untrained_accuracy: Interval
    held_out: str = option("classes", choices=("classes", "tasks"), help="what the test was apart by")
    start: str = option("", help="the network that meta-training started from; empty: one with weights drawn anew")
    adapter: str = option("", help="the adapter that was trained in the place of the network's own weights, if any")
    curve: LearningCurve = attrs.field(factory=LearningCurve)
    losses: tuple[float, ...] = ()
    split: str = "test"
    seed: int = 0
    options: dict[str, Any] = attrs.field(factory=dict)

    @property
    def chance(self) -> float:
        """The accuracy of guessing."""
        return 1 / self.ways

    @property
    def learned_nothing(self) -> bool:
        """Whether the accuracy is not above guessing beyond doubt."""
        return self.accuracy.low <= self.chance

    def _headline(self) -> str:
        return f"{self.learner}: {self.ways}-way {self.shots}-shot"
