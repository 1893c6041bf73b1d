"""What a continual run comes to."""

from __future__ import annotations

from typing import Any

import attrs

from crosstask.options import option, record
from crosstask.records import Interval
from crosstask.showing import Shown


@record
class ContinualScores:
    """Accuracies of tasks learned one after another (means over seeds), and what they say; see `continual_scores`.

    `matrix[i][j]` is the accuracy on task j after learning task i; None where nothing was measured.
    """

    matrix: tuple[tuple[float | None, ...], ...] = ()
    accuracy: Interval | None = None
    backward_transfer: Interval | None = None
    forward_transfer: Interval | None = None
    forgetting: Interval | None = None
    retention: Interval | None = None


@record
class ContinualResult(Shown):
    """A sequence of tasks learned with strategies against forgetting, beside none (`naive`) and all tasks at once.

    `joint` is the mean accuracy of one model that learned all tasks together, `joint_scores` that on each task;
    `majority` and `majority_scores` are those of always answering the majority class, `chance` and `chance_scores`
    those of answering at random: both have learned nothing. `samples`: how many of the split each task is asked for.
    `lower_bound`: see `crosstask_continual.scores.lower_bound`, of the accuracies after the last task. `warnings` say
    which strategies do not suit the scenario, which tasks have too few steps, and whether nothing was learned.

    `adapter` names the adapter that was trained with the head in place of the whole network; `weights` is how many the
    network has in the end (its adapter's among them), `trained_weights` how many of them were trained. `outputs` is
    the size of its head.
    """

    tasks: tuple[str, ...]
    scenario: str = option(choices=("task", "domain", "class"), help="what is known and asked for at test time")
    strategies: tuple[str, ...] = ()
    split: str = "test"
    scores: ContinualScores = attrs.field(factory=ContinualScores)
    naive: ContinualScores | None = None
    joint: Interval | None = None
    joint_scores: tuple[float | None, ...] = ()
    majority: float | None = None
    majority_scores: tuple[float | None, ...] = ()
    chance: float | None = None
    chance_scores: tuple[float | None, ...] = ()
    samples: tuple[int | None, ...] = ()
    lower_bound: float | None = None
    warnings: tuple[str, ...] = ()
    adapter: str | None = None
    weights: int = 0
    trained_weights: int = 0
    outputs: int = 0
    epochs: int = 1
    seed: int = 0
    seeds: int = 1
    options: dict[str, Any] = attrs.field(factory=dict)

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"after": after, **dict(zip(self.tasks, row, strict=False))}
            for after, row in zip(self.tasks, self.scores.matrix, strict=False)
        ]

    def _headline(self) -> str:
        return f"Accuracy on each task after each task, {self.scenario}-incremental"

    @property
    def learned_nothing(self) -> bool:
        """Whether the mean accuracy is not above that of always answering the majority class: not by more than what the
        choice of the test samples may make of it.
        """
        accuracy = self.scores.accuracy
        if accuracy is None or self.majority is None:
            return False
        return (accuracy.mean if self.lower_bound is None else self.lower_bound) <= self.majority + 1e-9
