"""What the synthesis stage found out."""

from __future__ import annotations

from typing import Any

import attrs

from crosstask.options import record
from crosstask.records import Provenance
from crosstask.showing import Shown


@record
class SynthesisResult(Shown):
    """A model for an unseen task, made without training, judged on the task's test split if it has one.

    `full_training_score` is that of a network trained on all of the task's own data, where it has some; `chance` that
    of always giving the most frequent answer.
    """

    task_id: str
    provenance: Provenance
    metric: str | None = None
    score: float | None = None
    full_training_score: float | None = None
    chance: float | None = None
    seed: int = 0
    options: dict[str, Any] = attrs.field(factory=dict)

    @property
    def learned_nothing(self) -> bool:
        """Whether the score is not above chance."""
        return self.score is not None and self.chance is not None and self.score <= self.chance + 1e-9

    def _headline(self) -> str:
        return f"{self.task_id} by {self.provenance.strategy}"
